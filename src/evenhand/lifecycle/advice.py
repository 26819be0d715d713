"""Which method for this data and this team: the first rule that holds decides, and the guide's table says the rest."""

from dataclasses import dataclass
from typing import Any

from evenhand.lifecycle.advice_rules import LEAST_USEFUL, LITTLE_SHARED, RULES, Method, Rule
from evenhand.lifecycle.circumstances import REFERENCE_BYTES, TRAINED_BYTES, Case, gib

# What the guide credits SimPO with: pairwise accuracy from 61 to 74 %.
_GUIDE_GAIN = 0.13


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the guide's decision table."""

    method: str
    strength: str
    weakness: str
    best_when: str

    def json(self) -> dict[str, str]:
        """The row by its columns."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


TABLE = {
    "ppo": Row(
        "RLHF (PPO + RM)",
        "Flexible reward shaping; online exploration",
        "Fragile, expensive, many hyperparameters",
        "Rich reward models; research-scale compute",
    ),
    "dpo": Row(
        "DPO",
        "Stable offline preference learning; KL via reference",
        "Reference model cost; length bias in total log-prob",
        "Need explicit anchoring to base policy",
    ),
    "simpo": Row(
        "SIMPO",
        "Reference-free; length-normalized; simple margin",
        "Less KL control; newer, fewer production war stories",
        "Pairwise prefs with length skew; memory limits",
    ),
    "grpo": Row(
        "GRPO",
        "Group-relative advantages; verifiable rewards",
        "Requires sampling G completions per prompt",
        "Math/code reasoning with automatic graders",
    ),
    "feedback": Row(
        "Constitutional AI / RLAIF",
        "Principle-driven labels without humans",
        "Constitution design; model-in-the-loop bias",
        "Moderation and policy-heavy assistants",
    ),
}
_SPOKEN: dict[Method, str] = {
    "simpo": "SimPO",
    "dpo": "DPO",
    "dpo_length_normalised": "DPO on mean log-ratios (length-normalised)",
    "kto": "KTO",
    "sft": "supervised fine-tuning first",
    "grpo": "GRPO with the verifier's grade as reward",
    "ppo": "PPO against the reward model",
    "feedback": "feedback by a constitution, and SimPO on what it says",
}
TABLE["dpo_length_normalised"] = TABLE["dpo"]


@dataclass(frozen=True, slots=True)
class Advice:
    """What the rules say of a case: `decided_by` is the first that held; the others that held stand behind it."""

    case: Case
    decided_by: Rule
    held: tuple[Rule, ...]
    cautions: tuple[str, ...]

    @property
    def method(self) -> Method | None:
        """The method to start with, None where the evidence is not enough for any."""
        return self.decided_by.method

    @property
    def is_open(self) -> bool:
        """Whether a method is named only to start with, and nothing here speaks for it over its nearest rival."""
        return self.decided_by.id == "pairs_alone"

    @property
    def row(self) -> Row | None:
        """The guide's row, where its table has one."""
        return TABLE.get(self.method or "")

    @property
    def sentence(self) -> str:
        """The advice in a sentence."""
        if self.method is None:
            return "not enough evidence to advise a method"
        if self.is_open:
            return "not enough evidence between SimPO and DPO; start with SimPO, train DPO beside it, and compare"
        return f"take {_SPOKEN[self.method]}"

    def json(self) -> dict[str, Any]:
        """The advice with every rule, those that do not hold included."""
        return {
            "method": self.method,
            "enough_evidence": self.method is not None and not self.is_open,
            "sentence": self.sentence,
            "decided_by": self.decided_by.json(self.case),
            "row": self.row.json() if self.row else None,
            "rules": [rule.json(self.case) for rule in RULES],
            "cautions": list(self.cautions),
            "data": self.case.shown.json() | {"held_out": self.case.held_out, "detectable": self.case.detectable},
            "team": self.case.team.json(),
        }


def advise(case: Case) -> Advice:
    """Go through the rules; the first that holds decides."""
    held = tuple(rule for rule in RULES if rule.holds(case) is not None)
    cautions = tuple(words for caution in CAUTIONS if (words := caution(case)))
    return Advice(case, held[0], held[1:], cautions)


def _caution_severe(case: Case) -> str | None:
    names = ", ".join(case.shown.severe)
    return f"severe findings stay after curation: {names}; see `evenhand audit {case.shown.source}`" if names else None


def _caution_agreement(case: Case) -> str | None:
    if case.shown.what != "preferences" or case.shown.alpha.n >= LITTLE_SHARED:
        return None
    return (
        f"agreement is not measured: {case.shown.alpha.n} items were judged by two annotators; have {LITTLE_SHARED} or "
        "more judged twice"
    )


def _caution_power(case: Case) -> str | None:
    if case.shown.what != "preferences" or not _GUIDE_GAIN < case.detectable <= LEAST_USEFUL:
        return None
    return (
        f"{case.held_out} held-out pairs show a difference of {case.detectable * 100:.0f} points or more; the guide's own gain "
        f"was {_GUIDE_GAIN * 100:.0f}"
    )


def _caution_skew(case: Case) -> str | None:
    share = case.shown.shorter_is_chosen
    if case.shown.what != "preferences" or case.skewed or share.value is None:
        return None
    return (
        f"not enough evidence of a length skew: the shorter answer is chosen in {share.words(percent=True, digits=1)}"
    )


def _caution_reward(case: Case) -> str | None:
    if case.team.reward_model is None or case.team.reward_accuracy.low is not None:
        return None
    return (
        f"the reward model {case.team.reward_model} is not measured; `evenhand evaluate {case.team.reward_model} HELD_OUT` says "
        "how often it agrees with people (give its run folder, or --reward-accuracy)"
    )


def _caution_memory(case: Case) -> str | None:
    team = case.team
    if team.memory is None or team.parameters is None:
        return None
    need = gib(team.parameters, TRAINED_BYTES if team.full_finetuning else REFERENCE_BYTES)
    what = "all weights trained" if team.full_finetuning else "the base alone in bf16"
    if need <= team.memory:
        return None
    return f"{team.parameters:g} billion weights take {need:.0f} GiB ({what}), and there are {team.memory:g}: shard, or take a smaller model"


CAUTIONS = (_caution_severe, _caution_agreement, _caution_power, _caution_skew, _caution_reward, _caution_memory)
