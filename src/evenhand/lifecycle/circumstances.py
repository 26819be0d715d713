"""What the choice of a method depends on: what the data shows once it is curated, and what the team has beside it."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scipy.special import ndtri

from evenhand.data.agreement import agreement, shared_ratings
from evenhand.data.appraise import Appraisal, Asked, appraise
from evenhand.data.bench import CurationRules
from evenhand.data.bias import share, share_of_true
from evenhand.data.curate import Curation, curate
from evenhand.data.facts import Tell, silent
from evenhand.data.prompts import prompt_kind
from evenhand.data.schema import PreferencePair
from evenhand.data.snapshot import read_snapshot
from evenhand.data.votes import VOTES, answer_kind, read_answers
from evenhand.errors import UserError
from evenhand.figure import Figure, Z, figure

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")
What = Literal["preferences", "thumbs", "demonstrations", "prompts"]
NOT_MEASURED = Figure(None, 0)
HELD_OUT = 0.2
# fp32 master, gradient and two moments of AdamW; a frozen reference in bf16.
TRAINED_BYTES, REFERENCE_BYTES = 16, 2
# A true difference shows in four samples of five (Cohen 1988, "Statistical Power Analysis", chapter 1).
_REACH = Z + float(ndtri(0.8))
# Share of pairs on which two models disagree at all.
_DISCORDANT = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """What the data shows. `examples` are pairs, thumbs, demonstrations or prompts that are left after curation.

    `shorter_is_chosen` is the share of pairs whose shorter answer won, `alpha` Krippendorff's over the annotators that
    are not at odds with the others, `severe` the audit's severe findings that curation does not settle.
    """

    source: str
    what: What
    examples: int
    shorter_is_chosen: Figure = NOT_MEASURED
    alpha: Figure = NOT_MEASURED
    severe: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """The data as advice states it."""
        return {
            "source": self.source,
            "what": self.what,
            "examples": self.examples,
            "shorter_is_chosen": self.shorter_is_chosen.json(),
            "krippendorff_alpha": self.alpha.json(),
            "severe": list(self.severe),
        }


@dataclass(frozen=True, slots=True)
class Team:
    """What a team has and must keep to; None and False where it says nothing.

    `memory` is of one device in GiB, `parameters` the model's in billions, `drift_limit` in nats per token as `evenhand
    evaluate --start` measures it. `verifier` and `reward_model` are named as a recipe names rewards.
    """

    memory: float | None = None
    parameters: float | None = None
    full_finetuning: bool = False
    drift_limit: float | None = None
    high_stakes: bool = False
    verifier: str | None = None
    reward_model: str | None = None
    reward_accuracy: Figure = NOT_MEASURED
    judge: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("--memory", self.memory), ("--parameters", self.parameters)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} {value:g}: give a number above 0.")
        if self.drift_limit is not None and not (math.isfinite(self.drift_limit) and self.drift_limit >= 0):
            raise UserError(f"--drift-limit {self.drift_limit:g}: give nats per token, 0 or more.")

    def present(self) -> "Team":
        """Itself; raises UserError where a verifier or a reward model that it names is not there."""
        if self.verifier is not None:
            file, _, function = self.verifier.rpartition(":")
            if not file or not function or (file.endswith(".py") and not Path(file).is_file()):
                raise UserError(
                    f"--verifier {self.verifier}: give file.py:function with a file that is there, or module:function."
                )
        model = self.reward_model
        if model is not None and not Path(model).exists() and not _HUB_ID.match(model):
            raise UserError(f"--reward-model {model}: there is no such folder; give a reward run or a classifier.")
        return self

    def json(self) -> dict[str, Any]:
        """The team's side as advice states it."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return named | {"reward_accuracy": self.reward_accuracy.json()}


@dataclass(frozen=True, slots=True)
class Case:
    """What is known: of the data and of the team."""

    shown: Shown
    team: Team

    @property
    def held_out(self) -> int:
        """How many examples a split would hold out."""
        return round(self.shown.examples * HELD_OUT)

    @property
    def detectable(self) -> float:
        """The smallest true difference in accuracy that the held-out side shows in four samples of five."""
        return 1.0 if not self.held_out else min(1.0, _REACH * math.sqrt(_DISCORDANT / self.held_out))

    @property
    def skewed(self) -> bool | None:
        """Whether one side of length wins more often; None where the interval does not tell."""
        share = self.shown.shorter_is_chosen
        if share.low is None or share.high is None or share.low <= 0.5 <= share.high:
            return None
        return True


def gib(parameters: float, bytes_each: float) -> float:
    """So many billions of weights in GiB.

    >>> round(gib(7, 2), 1)
    13.0
    """
    return parameters * 1e9 * bytes_each / 2**30


def shown_by(data: str, kind: str | None, say: Callable[[str], None], tell: Tell = silent) -> Shown:
    """Read, audit and curate `data`, or take curated data as it is; raises DataError for rows of no known kind."""
    if (Path(data) / "dataset.json").exists():
        snapshot = read_snapshot(Path(data))
        pairs = (*snapshot.train, *snapshot.validation)
        say(f"{data}: curated data, {len(pairs)} pairs")
        return Shown(data, "preferences", len(pairs), _shorter(pairs))
    if kind is None and (alone := answer_kind(data)) is not None:
        if alone in VOTES:
            return Shown(data, "thumbs", len(read_answers(data, alone)[1]))
        return _of_demonstrations(appraise(Asked(data, tell=tell), say))
    if kind is None and (bare := prompt_kind(data)) is not None:
        return Shown(data, "prompts", len({pair.prompt for pair in read_answers(data, bare)[1]}))
    return _of_preferences(appraise(Asked(data, kind, tell=tell), say))


def _of_demonstrations(found: Appraisal) -> Shown:
    severe = tuple(finding.id for finding in found.findings if finding.severity == "severe")
    return Shown(found.reading.source, "demonstrations", found.reading.rows_used, severe=severe)


def _of_preferences(found: Appraisal) -> Shown:
    rules = CurationRules()
    curation = curate(found.reading, rules, found.facts)
    settled = {*rules.order, "length_bias", "position_bias"} if curation.named else set(rules.order)
    severe = tuple(own.id for own in found.findings if own.severity == "severe" and own.id not in settled)
    alpha = _alpha(found, curation)
    agreed = alpha.low is not None and alpha.low > 0  # measured again without those who are at odds
    return Shown(
        found.reading.source,
        "preferences",
        len(curation.pairs),
        _shorter(curation.pairs),
        alpha,
        tuple(name for name in severe if name != "low_agreement" or not agreed),
    )


def _alpha(found: Appraisal, curation: Curation) -> Figure:
    """Agreement of the annotators that curation keeps."""
    odd = {naming.annotator for naming in curation.named}
    kept = [at for at, ballot in enumerate(found.facts.ballots) if ballot.annotator not in odd]
    ballots, same = found.facts.ballots, found.facts.same
    return agreement(shared_ratings([ballots[at] for at in kept], [same[at] for at in kept])).krippendorff_alpha


def _shorter(pairs: Sequence[PreferencePair]) -> Figure:
    """How often the shorter answer was chosen, in characters; equal lengths are left out."""
    lengths = [(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    return share_of_true([None if chosen == rejected else chosen < rejected for chosen, rejected in lengths])


def as_planned(shown: Shown, examples: int | None, shorter: float | None) -> Shown:
    """The same where the data is a sample of more: so many examples, of which a share has the shorter answer chosen.

    Raises UserError for what is no count or no share.
    """
    if (examples is not None and examples < 1) or (shorter is not None and not 0 <= shorter <= 1):
        raise UserError("--pairs is a count above 0 and --length-skew a share from 0 to 1; give those.")
    count = shown.examples if examples is None else examples
    skew = shown.shorter_is_chosen if shorter is None else share(round(shorter * count), count)
    return replace(shown, examples=count, shorter_is_chosen=skew)


def with_accuracy(team: Team) -> Team:
    """The team with its reward model's held-out accuracy, where that is a finished run with a report."""
    report = Path(team.reward_model or "") / "report.json"
    if team.reward_model is None or not report.is_file():
        return team
    try:
        after = json.loads(report.read_text(encoding="utf-8"))["after"]["pairwise_accuracy"]
        return replace(team, reward_accuracy=figure(after))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{report} is no report of a run; name the run folder of a reward model.") from error
