"""`evaluate`: what a model makes of held-out pairs and prompts, from a model, a tokenizer and a file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evenhand.data.read import read_pairs
from evenhand.data.schema import PreferencePair
from evenhand.evaluation.generate import MAX_NEW_TOKENS, Conversation, Generation, Limits, Serving, generate
from evenhand.evaluation.preference import PairTraits
from evenhand.evaluation.report import Evaluated
from evenhand.model.encode import EncodedPair, encode_pairs, require_pairs
from evenhand.model.forward import Policy
from evenhand.model.modes import Form, encoder_for, prompt_encoder
from evenhand.model.score import score_pairs
from evenhand.model.scores import ScoredPairs

# (what, done, of how many)
Narrator = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out pairs: as tokens, as texts, and how the one became the other."""

    encoded: Sequence[EncodedPair]
    texts: Sequence[PreferencePair]
    form: Form


@dataclass(frozen=True, slots=True)
class Asking:
    """How many distinct held-out prompts are answered, how long a reply may get, and who is told of the progress."""

    prompts: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    narrate: Narrator = lambda *_: None


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: str | Path | Sequence[PreferencePair],
    prompts: int = 0,
    form: Form | None = None,
) -> Evaluated:
    """Score the pairs in `data` (a file, or pairs) and let the model answer its first `prompts` distinct prompts.

    `form` says how pairs become tokens; left out it is the chat template and at most 2048 tokens. The model is given
    back in the mode it came in. Raises DataError where no pair can be used, TemplateError without a chat template.
    """
    form = form or Form(max_tokens=2048)
    pairs = read_pairs(data)[1] if isinstance(data, (str, Path)) else tuple(data)
    name = str(data) if isinstance(data, (str, Path)) else "the pairs given"
    encoding = encode_pairs(pairs, encoder_for(tokenizer, form), form.limits, name)
    policy = Policy(model)
    try:
        return evaluate_policy(policy, tokenizer, HeldOut(require_pairs(encoding, name), pairs, form), Asking(prompts))
    finally:
        policy.release()


def evaluate_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, asking: Asking) -> Evaluated:
    """The evaluation of a policy on pairs that are already tokens."""
    scored = score_pairs(policy, held_out.encoded, report=lambda done, total: asking.narrate("scoring", done, total))
    return evaluation_of(policy, tokenizer, held_out, (scored, asking))


def evaluation_of(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, given: tuple[ScoredPairs, Asking]
) -> Evaluated:
    """The evaluation that follows from scores already made, with replies where some are asked for."""
    scored, asking = given
    traits = PairTraits.of(scored, held_out.texts)
    replies = answer(policy, tokenizer, held_out, asking) if asking.prompts else None
    return Evaluated.of(scored, traits, replies)


def answer(policy: Policy, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, asking: Asking) -> Generation:
    """Greedy replies to the first distinct held-out prompts, taken evenly over the pairs."""
    feed, stops = prompt_encoder(tokenizer, held_out.form)
    return generate(
        policy.model,
        Serving(tokenizer, feed, stops),
        distinct_prompts(held_out.texts, asking.prompts),
        Limits(max_new_tokens=asking.max_new_tokens),
        lambda done, total: asking.narrate("answering", done, total),
    )


def distinct_prompts(pairs: Sequence[PreferencePair], count: int) -> list[tuple[Conversation, str | None]]:
    """`count` distinct prompts with their families, as many families as there are before any comes twice."""
    families: dict[str, dict[Conversation, None]] = {}
    for pair in pairs:
        families.setdefault(pair.family or pair.group, {}).setdefault(pair.prompt)
    queues = [(family, list(prompts)) for family, prompts in families.items()]
    rounds = max(len(prompts) for _, prompts in queues)
    taken = [(prompts[i], family) for i in range(rounds) for family, prompts in queues if i < len(prompts)]
    return [(prompt, family) for prompt, family in dict(taken[:count]).items()]
