"""The rules that choose a method, in their order: what each says, where that is from, and when it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from evenhand.lifecycle.circumstances import REFERENCE_BYTES, TRAINED_BYTES, Case, gib

Method = Literal["simpo", "dpo", "dpo_length_normalised", "kto", "sft", "grpo", "ppo", "feedback"]
GUIDE = "the SimPO guide"
# Pairs held out must show a difference of this size; items judged twice that an agreement rests on.
LEAST_USEFUL, LITTLE_SHARED = 0.25, 20
_FEW_GOLD, _STRONG_REWARD = 1000, 0.75


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `holds` gives the words with the values where it does, None where it does not.

    `method` is what it decides for, None where it says that the evidence does not decide.
    """

    id: str
    says: str
    source: str
    method: Method | None
    holds: Callable[[Case], str | None]

    def json(self, case: Case) -> dict[str, Any]:
        """The rule and whether it holds here."""
        words = self.holds(case)
        return {
            "id": self.id,
            "says": self.says,
            "source": self.source,
            "method": self.method,
            "holds": words is not None,
            "words": words,
        }


def _nothing_to_learn_from(case: Case) -> str | None:
    team = case.team
    if case.shown.what != "prompts" or team.verifier or team.reward_model or team.judge:
        return None
    return f"{case.shown.examples} prompts without an answer, and no verifier, reward model or judge is at hand"


def _verifier(case: Case) -> str | None:
    return f"answers are graded by {case.team.verifier}" if case.team.verifier else None


def _labels_are_noise(case: Case) -> str | None:
    alpha = case.shown.alpha
    if alpha.low is None or alpha.n < LITTLE_SHARED or alpha.low > 0:
        return None
    return f"Krippendorff's alpha {alpha.words()}: chance is not excluded"


def _too_few_pairs(case: Case) -> str | None:
    if case.shown.what != "preferences" or case.detectable <= LEAST_USEFUL:
        return None
    return (
        f"{case.shown.examples} pairs are left after curation; {case.held_out} held out show a difference of "
        f"{case.detectable * 100:.0f} points or more, and nothing smaller"
    )


def _strong_reward_model(case: Case) -> str | None:
    accuracy = case.team.reward_accuracy
    if case.team.reward_model is None or accuracy.low is None or accuracy.low < _STRONG_REWARD:
        return None
    return f"{case.team.reward_model} agrees with people on held-out pairs: {accuracy.words()}"


def _reward_model_and_prompts(case: Case) -> str | None:
    if case.shown.what != "prompts" or case.team.reward_model is None:
        return None
    measured = case.team.reward_accuracy.words()
    return f"{case.shown.examples} prompts and the reward model {case.team.reward_model} (held-out accuracy {measured})"


def _judge_without_people(case: Case) -> str | None:
    if case.team.judge is None or case.shown.what == "preferences":
        return None
    return f"nobody compared answers ({case.shown.examples} {case.shown.what}), and {case.team.judge} can judge"


def _thumbs(case: Case) -> str | None:
    return f"{case.shown.examples} answers with a thumb and no rival" if case.shown.what == "thumbs" else None


def _demonstrations(case: Case) -> str | None:
    return f"{case.shown.examples} demonstrations" if case.shown.what == "demonstrations" else None


def _drift(case: Case) -> str | None:
    limit = case.team.drift_limit
    return None if limit is None else f"the model may move by {limit:g} nats per token"


def _drift_and_skew(case: Case) -> str | None:
    drift, skew = _drift(case), _length_skew(case)
    return f"{drift}, and {skew}" if drift and skew else None


def _few_and_high_stakes(case: Case) -> str | None:
    if not case.team.high_stakes or case.shown.examples >= _FEW_GOLD:
        return None
    return f"{case.shown.examples} pairs, each of high stakes"


def _length_skew(case: Case) -> str | None:
    if case.shown.what != "preferences" or not case.skewed:
        return None
    return f"the shorter answer is chosen in {case.shown.shorter_is_chosen.words(percent=True, digits=1)}"


def _memory(case: Case) -> str | None:
    team = case.team
    if team.memory is None or team.parameters is None or not team.full_finetuning or case.shown.what != "preferences":
        return None
    trained, with_reference = (gib(team.parameters, own) for own in (TRAINED_BYTES, TRAINED_BYTES + REFERENCE_BYTES))
    if not trained <= team.memory < with_reference:
        return None
    return (
        f"{team.parameters:g} billion weights, all trained, take {trained:.0f} GiB before activations and "
        f"{with_reference:.0f} GiB with a reference; there are {team.memory:g}"
    )


def _pairs_alone(case: Case) -> str | None:
    if case.shown.what != "preferences" or any(
        own(case) for own in (_drift, _few_and_high_stakes, _length_skew, _memory)
    ):
        return None
    return f"{case.shown.examples} pairs, and nothing here separates SimPO from DPO"


RULES = (
    Rule(
        "nothing_to_learn_from",
        "Prompts alone teach nothing: something has to say which answer is better.",
        f"{GUIDE}, decision table: every row needs preferences, a grader, a reward model or principles",
        None,
        _nothing_to_learn_from,
    ),
    Rule(
        "verifier",
        "Where a program can grade answers, rollouts with that grade beat static pairs.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "Reasoning tasks need rollout-based methods"; Shao et al. '
        "2024, arXiv 2402.03300, section 4",
        "grpo",
        _verifier,
    ),
    Rule(
        "labels_are_noise",
        "Where annotators agree no more than by chance, no objective has anything to learn.",
        f'{GUIDE}, "Common pitfalls": "audit inter-annotator agreement first"; Krippendorff 2004, "Content Analysis", '
        "chapter 11",
        None,
        _labels_are_noise,
    ),
    Rule(
        "too_few_pairs",
        f"With a fifth held out, a difference of {LEAST_USEFUL * 100:.0f} points has to show; else no method can be told "
        "from another, or from none.",
        'Cohen 1988, "Statistical Power Analysis", chapter 1: 95 % intervals, power 0.8, half of the pairs changing side',
        None,
        _too_few_pairs,
    ),
    Rule(
        "strong_reward_model",
        f"A reward model right on at least {_STRONG_REWARD:.0%} of held-out pairs, by its interval's low end, may be trained "
        "against.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "You already have a calibrated reward model"; the bound is '
        "ours",
        "ppo",
        _strong_reward_model,
    ),
    Rule(
        "reward_model_and_prompts",
        "Prompts and a reward model are what RLHF needs, and nothing else here can use them.",
        f"{GUIDE}, decision table, row RLHF (PPO + RM); Ouyang et al. 2022, arXiv 2203.02155, section 3.5",
        "ppo",
        _reward_model_and_prompts,
    ),
    Rule(
        "judge_without_people",
        "Without people's comparisons a model may compare by written principles, once it is measured on some that people "
        "labelled.",
        f"{GUIDE}, decision table, row Constitutional AI / RLAIF; Bai et al. 2022, arXiv 2212.08073, section 4",
        "feedback",
        _judge_without_people,
    ),
    Rule(
        "thumbs",
        "Answers liked or disliked one at a time are learned from as they are, without making up pairs.",
        "Ethayarajh et al. 2024, arXiv 2402.01306, section 4; the guide's table has no such row",
        "kto",
        _thumbs,
    ),
    Rule(
        "demonstrations",
        "Demonstrations are for supervised fine-tuning, which comes before any preference.",
        f'{GUIDE}, "Production checklist": "Complete SFT on high-quality demonstrations"',
        "sft",
        _demonstrations,
    ),
    Rule(
        "drift_and_length_skew",
        "A limit on drift needs a reference; length skew needs lengths divided out: DPO on mean log-ratios has both.",
        f'{GUIDE}, "Key takeaways": "Use DPO or RLHF when strict KL anchoring matters"; Lambert et al. 2024, arXiv 2411.15124 '
        "(length-normalised DPO)",
        "dpo_length_normalised",
        _drift_and_skew,
    ),
    Rule(
        "drift",
        "A limit on drift needs an objective that pays for it: DPO's reference.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "Strict drift control matters"',
        "dpo",
        _drift,
    ),
    Rule(
        "few_and_high_stakes",
        f"On fewer than {_FEW_GOLD} pairs of high stakes, DPO with a careful beta is the more predictable.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "Preferences are sparse but high-stakes"; the count is ours',
        "dpo",
        _few_and_high_stakes,
    ),
    Rule(
        "length_skew",
        "Where length goes with the choice, rewards per token keep length itself from being learned.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "Preference data has length skew"; Meng et al. 2024, arXiv '
        "2405.14734 (its ablation of length normalisation)",
        "simpo",
        _length_skew,
    ),
    Rule(
        "memory",
        "With every weight trained, a reference is a second model; where only one fits, SimPO needs no other. With an "
        "adapter the reference is the base with the adapter off and costs no memory.",
        f'{GUIDE}, "When SIMPO beats DPO and when it does not": "GPU memory is tight"; docs/guide-story.md measures the '
        "adapter's case",
        "simpo",
        _memory,
    ),
    Rule(
        "pairs_alone",
        "Pairs of which nothing else is known: train SimPO and DPO on them and compare; neither is shown to be better.",
        f'{GUIDE}, "Production checklist": "Compare SIMPO against DPO on the same data before production cutover"',
        "simpo",
        _pairs_alone,
    ),
)
