"""The report of a run: `report.json` for programs, and `report.html`, one file that needs no network and no script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evenhand.data.contest import INVISIBLE
from evenhand.data.patterns import redact
from evenhand.evaluation.difference import difference, difference_of_replies
from evenhand.evaluation.epochs import Epoch, epochs_of
from evenhand.evaluation.generate import Generation, Reply
from evenhand.evaluation.html import page
from evenhand.evaluation.panels import difference_chart, gap_panel, length_panel, slice_panels, training_panels
from evenhand.evaluation.preference import PairTraits, PreferenceEvaluation, evaluate_pairs
from evenhand.evaluation.table import epoch_rows, figure_rows, flattened, objective_numbers
from evenhand.evaluation.verdict import Verdict, verdict, verdict_on_rewards
from evenhand.figure import Figure
from evenhand.files import write_json, write_whole
from evenhand.model.scores import ScoredPairs

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model's scores on the held-out pairs, what follows from them, and its replies where it was asked for any."""

    scored: ScoredPairs
    preference: PreferenceEvaluation
    generation: Generation | None = None

    @classmethod
    def of(
        cls, scored: ScoredPairs, traits: PairTraits | None = None, generation: Generation | None = None
    ) -> "Evaluated":
        """The evaluation of `scored`; raises DataError where nothing can be evaluated."""
        return cls(scored, evaluate_pairs(scored, traits), generation)

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand evaluate --json`."""
        return self.preference.json() | {"generation": self.generation.json() if self.generation else None}


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Which data a run saw: content hash, rows read, rows used, and refused rows by reason."""

    hash: str
    rows_in: int
    rows_used: int
    refused: Mapping[str, int]

    def json(self) -> dict[str, Any]:
        """The shape in `report.json`."""
        return {
            "hash": self.hash,
            "rows_in": self.rows_in,
            "rows_used": self.rows_used,
            "refused": dict(self.refused),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report tells. `recipe` is the resolved one; `journal` holds a run's records in order.

    `machine` is told as it is given: names and versions, such as `{"torch": "2.13"}`. `redacted` writes e-mail
    addresses, keys and the like in the examples as their kind.
    """

    name: str
    before: Evaluated
    after: Evaluated
    data: DataFacts
    recipe: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    traits: PairTraits | None = None
    redacted: bool = True

    def differences(self) -> dict[str, Figure]:
        """All paired differences, after minus before: of accuracies, and of replies where both models gave some."""
        found = difference(self.before.scored, self.after.scored, self.traits)
        if self.before.generation is not None and self.after.generation is not None:
            found |= difference_of_replies(self.before.generation, self.after.generation)
        return found

    def epochs(self) -> list[Epoch]:
        """The run epoch by epoch, from the untrained model on."""
        return epochs_of(self.journal, (self.before.preference, self.before.generation))


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all, and return the page's path.

    Raises DataError where `before` and `after` are not of the same pairs or prompts, StorageError on a full disk.
    """
    differences = report.differences()
    said = _verdict(report, differences)
    write_json(folder / "report.json", report_json(report, differences, said))
    page = folder / "report.html"
    write_whole(page, report_page(report, differences, said))
    return page


def _verdict(report: Report, differences: Mapping[str, Figure]) -> Verdict:
    """By the rewards of replies where these were trained for, else by pairwise accuracy."""
    before, after = report.before, report.after
    trained_for = "rewards" in report.recipe.get("objective", {})
    if trained_for and "reward" in differences and before.generation is not None and after.generation is not None:
        return verdict_on_rewards(before.generation.reward, after.generation.reward, differences)
    return verdict(before.preference.pairwise_accuracy, after.preference.pairwise_accuracy, differences)


def report_json(report: Report, differences: Mapping[str, Figure], said: Verdict) -> dict[str, Any]:
    """What `report.json` holds."""
    return {
        "name": report.name,
        "verdict": {"word": said.word, "sentence": said.sentence, "cautions": list(said.cautions)},
        "before": report.before.json(),
        "after": report.after.json(),
        "difference": differences["pairwise_accuracy"].json(),
        "differences": {name: figure.json() for name, figure in differences.items()},
        "epochs": [epoch.json() for epoch in report.epochs()],
        "data": report.data.json(),
        "recipe": dict(report.recipe),
        "machine": dict(report.machine),
    }


def report_page(report: Report, differences: Mapping[str, Figure], said: Verdict) -> str:
    """The page as one HTML text; all text from outside is escaped."""
    before, after = report.before, report.after
    objective = report.recipe.get("objective", {})
    evidence = [
        *slice_panels(before.preference.slices, after.preference.slices),
        gap_panel(before.scored, after.scored),
    ]
    if before.generation is not None and after.generation is not None:
        evidence.append(length_panel(before.generation, after.generation))
    return page(
        "report.html.j2",
        report=report,
        verdict=said,
        difference_chart=difference_chart(differences),
        rows=figure_rows((before.preference, after.preference), (before.generation, after.generation), differences),
        evidence=evidence,
        epochs=epoch_rows(report.epochs()),
        training=training_panels(report.journal, objective.get("margin")),
        examples=examples(before.generation, after.generation, report.redacted),
        objective=objective_numbers(objective),
        settings=flattened(report.recipe),
    )


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with the replies before and after, as text that is safe to show."""

    prompt: str
    earlier_turns: int
    before: Reply
    after: Reply
    before_text: str
    after_text: str


def examples(before: Generation | None, after: Generation | None, redacted: bool) -> list[Example]:
    """Replies to five held-out prompts evenly spaced over all of them: chosen by place, not by looks."""
    if before is None or after is None:
        return []
    count = len(before.replies)
    places = sorted({i * count // _EXAMPLES for i in range(_EXAMPLES)}) if count else []
    found = []
    for place in places:
        one, two = before.replies[place], after.replies[place]
        prompt, *texts = (shown(t, redacted) for t in (one.prompt[-1].content, one.text, two.text))
        found.append(Example(prompt, len(one.prompt) - 1, one, two, *texts))
    return found


def shown(text: str, redacted: bool) -> str:
    """Text with invisible characters spelled out, and personal data named by its kind.

    >>> shown("a\\u202eb, ann@example.org", redacted=True)
    'a[U+202E]b, [e-mail]'
    """
    visible = INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
    return redact(visible) if redacted else visible
