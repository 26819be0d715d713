"""A candidate against the model in production: every check of a policy, and one answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import evenhand
from evenhand.data.schema import PreferencePair
from evenhand.errors import UserError
from evenhand.evaluation import behaviour as acts
from evenhand.evaluation.behaviour import Asked, Behaviour, Item, behave, choice_outcomes, outcomes
from evenhand.evaluation.items import EXTRACTION, JSON_FORMAT, sum_pairs
from evenhand.evaluation.noninferiority import Margin
from evenhand.evaluation.preference import wins
from evenhand.evaluation.probes import bias_pairs
from evenhand.evaluation.refusal import DETECTOR as REFUSALS
from evenhand.evaluation.speed import compare_speed
from evenhand.evaluation.toxicity import DETECTOR as TOXICITY
from evenhand.evaluation.toxicity import THRESHOLD, load_toxicity
from evenhand.lifecycle.appraisal import given_pairs
from evenhand.lifecycle.check import Check, length_check, not_run, ratio_word, rise_check, share_check
from evenhand.lifecycle.contestant import Contestant, require_answers
from evenhand.lifecycle.harness import harness_checks
from evenhand.lifecycle.policy import Policy, ShareCheck
from evenhand.model.encode import encode_pairs
from evenhand.model.modes import encoder_for
from evenhand.model.score import score_pairs

Narrator = Callable[[str, int, int], None]
Behaviours = tuple[Behaviour, Behaviour]

_TASKS = (EXTRACTION, JSON_FORMAT)
_MEANING = {
    "arithmetic": "share of small sums whose right result is more probable than a wrong one",
    EXTRACTION: "share of facts found in a sentence",
    JSON_FORMAT: "share of replies that are exactly the JSON asked for",
    "tasks": "share of written answers that are right, facts and JSON together",
    "refuses_harmful": "share of harmful requests that are refused",
    "answers_benign": "share of harmless requests that are answered (the rest is over-refusal)",
    "resists_attacks": "share of attacks that do not get their code said",
    "unbiased": "share of paired sentences in which the stereotype is not preferred",
    "not_toxic": "share of replies that do not insult",
    "ends": "share of short replies that end by themselves",
    "repetition": "share of repeated 4-grams in open replies",
    "length": "tokens of open replies; the difference is a ratio",
    "latency": "seconds of one reply alone; the difference is a ratio",
    "throughput": "tokens per second of eight replies at once; the difference is a ratio of times",
    "held_out": "pairwise accuracy on held-out pairs",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate found; it passes where every check of its policy does."""

    candidate: Contestant
    incumbent: Contestant
    policy: Policy
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand gate --json`, which a registry keeps."""
        return {
            "passed": self.passed,
            "candidate": self.candidate.json(),
            "incumbent": self.incumbent.json(),
            "checks": [check.json() for check in self.checks],
            "not_run": [check.name for check in self.checks if check.word == "not run"],
            "policy": self.policy.model_dump(mode="json"),
            "evenhand": evenhand.__version__,
        }


@dataclass(frozen=True, slots=True)
class Observed:
    """All that one model did, item by item; what the policy does not ask for is empty."""

    behaviour: Behaviour
    sums: tuple[Item, ...]
    bias: tuple[Item, ...]
    pairs: dict[tuple[int, str], Item]


def run_gate(candidate: Contestant, incumbent: Contestant, policy: Policy, data: str | None, narrate: Narrator) -> Gate:
    """Make every check that `policy` asks for; `data` names held-out pairs and goes before all others.

    Raises ModelError for a reward model.
    """
    for found in (candidate, incumbent):
        require_answers(found)
    pairs, why = held_out_pairs(policy, candidate, data)
    both = (candidate, incumbent)
    one, other = (
        observe(model, policy, pairs, _told(narrate, word)) for model, word in zip(both, ("candidate", "incumbent"))
    )
    checks = [
        *observed_checks(policy, (one, other), why),
        *_speed_checks(policy, both),
        *harness_checks(policy.harness, candidate, incumbent),
    ]
    return Gate(candidate, incumbent, policy, tuple(checks))


def observe(model: Contestant, policy: Policy, pairs: tuple[PreferencePair, ...], narrate: Narrator) -> Observed:
    """Let one model answer, and score what the policy wants scored."""
    behaviour = behave(model.policy, model.serving, sets_of(policy), policy.batch, narrate)
    form = (model.serving, model.form)
    sums = sum_pairs(policy.arithmetic.items, policy.seed) if policy.arithmetic else []
    return Observed(
        behaviour,
        choice_outcomes(model.policy, form, sums, partial(narrate, "arithmetic")),
        choice_outcomes(model.policy, form, bias_pairs() if policy.unbiased else [], partial(narrate, "bias")),
        _pair_items(model, pairs, narrate),
    )


def observed_checks(policy: Policy, both: tuple[Observed, Observed], why_no_pairs: str | None) -> list[Check]:
    """Every check that follows from what two models did."""
    behaviours = (both[0].behaviour, both[1].behaviour)
    return [
        *_arithmetic_checks(policy, both),
        *task_checks(policy, behaviours),
        *safety_checks(policy, behaviours),
        *_bias_checks(policy, both),
        *reply_checks(policy, behaviours),
        *_held_out_checks(policy, both, why_no_pairs),
    ]


def held_out_pairs(
    policy: Policy, candidate: Contestant, data: str | None
) -> tuple[tuple[PreferencePair, ...], str | None]:
    """The held-out pairs that are given or that the candidate's run held out; or none, and why."""
    if policy.held_out is None:
        return (), None
    given = data or policy.held_out.data
    pairs, why = (given_pairs(given).pairs, None) if given else candidate.own_held_out()
    return _spread(pairs, policy.held_out.pairs), why


def sets_of(policy: Policy) -> list[Asked]:
    """The sets of prompts that the policy's checks need."""
    sets = [acts.tasks_asked(kind, share.items, policy.seed) for kind, share in _shares(policy, _TASKS)]
    if policy.refuses_harmful:
        sets.append(acts.harmful_asked(policy.refuses_harmful.items))
    if policy.answers_benign:
        sets.append(acts.benign_asked(policy.answers_benign.items))
    if policy.resists_attacks:
        sets.append(acts.attacks_asked(policy.resists_attacks.items, policy.seed))
    if policy.length or policy.repetition or policy.not_toxic:
        sets.append(acts.open_asked(policy.open_prompts, policy.open_tokens))
    return sets


def task_checks(policy: Policy, both: Behaviours) -> list[Check]:
    """The tasks with one right answer, kind by kind, and all of them together, which shows smaller losses."""
    shares = _shares(policy, _TASKS)
    sides = {kind: _sides(both, kind) for kind, _ in shares}
    checks = [
        share_check(kind, _MEANING[kind], sides[kind], Margin(share.margin), share.flips) for kind, share in shares
    ]
    if policy.tasks and len(shares) > 1:
        joined = tuple([item for kind, _ in shares for item in sides[kind][side]] for side in (0, 1))
        flips = max(share.flips for _, share in shares)
        check = share_check("tasks", _MEANING["tasks"], (joined[0], joined[1]), Margin(policy.tasks), flips)
        checks.append(replace(check, failing=()))
    return checks


def safety_checks(policy: Policy, both: Behaviours) -> list[Check]:
    """Refusals both ways, and attacks."""
    checks = []
    names = (("refuses_harmful", acts.HARMFUL), ("answers_benign", acts.BENIGN), ("resists_attacks", acts.ATTACKS))
    for name, asked in names:
        share: ShareCheck | None = getattr(policy, name)
        if share is None:
            continue
        check = share_check(name, _MEANING[name], _sides(both, asked), Margin(share.margin), share.flips)
        checks.append(replace(check, detector=None if asked == acts.ATTACKS else REFUSALS))
    return checks


def reply_checks(policy: Policy, both: Behaviours) -> list[Check]:
    """What all replies show: insults, whether they end, repetition, length."""
    checks = []
    if policy.not_toxic:
        checks.append(_toxicity_check(policy.not_toxic, both))
    if policy.ends:
        checks.append(_ends_check(policy.ends, both))
    opened = tuple(one.replies.get(acts.OPEN, ()) for one in both)
    if policy.repetition:
        repeated = ([reply.repetition for reply in opened[0]], [reply.repetition for reply in opened[1]])
        checks.append(rise_check("repetition", _MEANING["repetition"], repeated, policy.repetition))
    if policy.length:
        lengths = ([reply.tokens for reply in opened[0]], [reply.tokens for reply in opened[1]])
        bounds = (policy.length.least, policy.length.most)
        checks.append(length_check("length", _MEANING["length"], lengths, bounds))
    return checks


def _toxicity_check(margin: float, both: Behaviours) -> Check:
    try:
        toxicity = load_toxicity()
    except UserError as error:
        return not_run("not_toxic", _MEANING["not_toxic"], -margin, str(error))
    sides = []
    for one in both:
        replies = one.all_replies()
        probable = toxicity([reply.text for reply in replies])
        sides.append([Item(float(p < THRESHOLD), reply.prompt, reply.text) for p, reply in zip(probable, replies)])
    check = share_check("not_toxic", _MEANING["not_toxic"], (sides[0], sides[1]), Margin(margin))
    return replace(check, detector=TOXICITY)


def _ends_check(margin: float, both: Behaviours) -> Check:
    sides = [[Item(float(reply.ended), reply.prompt, reply.text) for reply in one.replies_to_end()] for one in both]
    if not sides[0]:
        return not_run("ends", _MEANING["ends"], -margin, "the policy asks for no replies to look at")
    return share_check("ends", _MEANING["ends"], (sides[0], sides[1]), Margin(margin))


def _arithmetic_checks(policy: Policy, both: tuple[Observed, Observed]) -> list[Check]:
    asked = policy.arithmetic
    if asked is None:
        return []
    margin = Margin(asked.margin, chance=0.5)
    return [share_check("arithmetic", _MEANING["arithmetic"], (both[0].sums, both[1].sums), margin, asked.flips)]


def _bias_checks(policy: Policy, both: tuple[Observed, Observed]) -> list[Check]:
    if policy.unbiased is None:
        return []
    check = share_check("unbiased", _MEANING["unbiased"], (both[0].bias, both[1].bias), Margin(policy.unbiased))
    note = (
        f"{len(both[0].bias)} paired sentences in English show a rise of what they ask about, not the absence of bias"
    )
    return [replace(check, note=note)]


def _speed_checks(policy: Policy, both: tuple[Contestant, Contestant]) -> list[Check]:
    if policy.latency is None:
        return []
    prompt = both[0].serving.prompt_tokens(acts.open_asked(1, 1).items[0].prompt)
    vocabulary = min(int(model.policy.model.config.get_text_config().vocab_size) for model in both)
    prompt = [token for token in prompt if token < vocabulary]
    found = compare_speed(both[0].policy, both[1].policy, prompt, policy.latency.most)
    bounds = (policy.latency.least, policy.latency.most)
    rows = (
        ("latency", found.seconds, found.slower_alone),
        ("throughput", found.tokens_per_second, found.slower_together),
    )
    note = "adapters are merged for the gate; served unmerged they are slower"
    return [
        Check(name, ratio_word(slower, bounds), *figures, slower, bounds[1], _MEANING[name], note=note)
        for name, figures, slower in rows
    ]


def _held_out_checks(policy: Policy, both: tuple[Observed, Observed], why: str | None) -> list[Check]:
    asked = policy.held_out
    if asked is None:
        return []
    common = sorted(both[0].pairs.keys() & both[1].pairs.keys())
    if not common:
        return [not_run("held_out", _MEANING["held_out"], -asked.margin, why or "no pair fits both models")]
    items = ([both[0].pairs[key] for key in common], [both[1].pairs[key] for key in common])
    check = share_check("held_out", _MEANING["held_out"], items, Margin(asked.margin, chance=0.5))
    return [replace(check, failing=())]


def _pair_items(model: Contestant, pairs: tuple[PreferencePair, ...], narrate: Narrator) -> dict[tuple[int, str], Item]:
    """Which of the pairs the model orders right, by row and id; pairs that do not fit it are left out."""
    if not pairs:
        return {}
    form = model.form
    encoding = encode_pairs(pairs, encoder_for(model.tokenizer, form), form.limits, "held-out pairs")
    if not encoding.pairs:
        return {}
    scored = score_pairs(
        model.policy, encoding.pairs, report=lambda done, total: narrate("held-out pairs", done, total)
    )
    prompts = {(pair.row, pair.id): pair for pair in pairs}
    keys = zip(scored.row_B.tolist(), scored.id_B)
    return {key: Item(float(won), prompts[key].prompt, "") for key, won in zip(keys, wins(scored.mean_gap_B))}


def _spread(pairs: tuple[PreferencePair, ...], most: int) -> tuple[PreferencePair, ...]:
    """At most so many pairs, taken evenly from first to last."""
    if len(pairs) <= most:
        return pairs
    return tuple(pairs[i * len(pairs) // most] for i in range(most))


def _sides(both: Behaviours, name: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    return outcomes(both[0], name), outcomes(both[1], name)


def _shares(policy: Policy, names: tuple[str, ...]) -> list[tuple[str, ShareCheck]]:
    return [(name, getattr(policy, name)) for name in names if getattr(policy, name) is not None]


def _told(narrate: Narrator, word: str) -> Narrator:
    return lambda what, done, total: narrate(f"{word}: {what}", done, total)
