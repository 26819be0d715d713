"""D3: 100,000 pairs of random lengths with each of three tokenizers keep what training relies on.

python reliability/row_invariants.py --pairs 100000

An accepted pair has a scored token on each side and the same prompt on both, no side is over the limit, and each ends in the one
end-of-turn token of its answer. A tenth as many are encoded as TRL does, which cuts answers: a cut side is named, and
every other one ends in eos. All other pairs are refused with a reason.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ground import verdict  # first, since it finds the sources
from transformers import PreTrainedTokenizerBase

from chat_tokenizers import chat_tokenizer

from evenhand.data.schema import Message, PreferencePair, Refusal
from evenhand.model.encode import EncodedPair, EncodedSide, encode_pair
from evenhand.model.load import find_source, load_tokenizer
from evenhand.model.modes import Form, encoder_for

WORDS = (
    "where",
    "is",
    "größer",
    "请稍等",
    "<|im_end|>",
    "</s>",
    "[INST]",
    "\n\n",
    "🙂",
    "yes",
    "no",
    "18:00",
    "it",
    "Friday",
)
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level BPE": lambda: chat_tokenizer("chatml"),
    "unigram with byte fallback": lambda: chat_tokenizer("mistral"),
    "SmolLM2": lambda: load_tokenizer(find_source("builtin:smollm2-135m")),
}
REASONS = {"too_long", "identical_answers_tokenised", "no_scored_token"}
# Every so many pairs another limit, so that limits fall below, between and above the lengths drawn.
PAIRS_A_LIMIT = 50


@dataclass(frozen=True, slots=True)
class Way:
    """One way of encoding: its limit, whether it cuts, and the token that ends an answer."""

    limit: int
    cuts: bool
    end: int


def draw_pair(draw: random.Random, row: int) -> PreferencePair:
    """Prompt and answers of 0 to 40 words each, so that some are empty, equal, or longer than the limit."""
    prompt, chosen, rejected = (" ".join(draw.choices(WORDS, k=draw.randrange(41))) for _ in range(3))
    return PreferencePair(f"p{row}", row, f"g{row}", (Message("user", prompt),), chosen, rejected)


def broken(found: EncodedPair | Refusal, way: Way) -> str | None:
    """Which promise `found` breaks, if any."""
    if isinstance(found, Refusal):
        return None if found.reason in REASONS else f"refused as {found.reason}"
    sides = {"chosen": found.chosen, "rejected": found.rejected}
    if found.cut and not way.cuts:
        return "an answer was cut"
    prompts = [one.tokens[: one.starts] for one in sides.values()]
    # TRL reads prompt and answer as one text, so that a token may span the border and differ between the two.
    if not way.cuts and not np.array_equal(*prompts):
        return "the prompts differ"
    return next((what for name, one in sides.items() if (what := broken_side(one, name in found.cut, way))), None)


def broken_side(one: EncodedSide, cut: bool, way: Way) -> str | None:
    """Which promise one side breaks, if any."""
    if one.scored < 1:
        return "no scored token"
    if len(one.tokens) > way.limit:
        return "over the limit"
    if way.cuts:  # as TRL cuts: eos is put last, and lost where the answer is cut
        return None if cut or one.tokens[-1] == way.end else "no end of text"
    answer = one.tokens[one.starts :].tolist()
    return None if answer[-1] == way.end and answer.count(way.end) == 1 else "not one end of turn"


def count(tokenizer: PreTrainedTokenizerBase, pairs: int, compat: bool, seed: int) -> Counter[str]:
    """How many of so many pairs were accepted, cut, refused, or broke a promise, by its name."""
    draw, found = random.Random(seed), Counter[str]()
    for start in range(0, pairs, PAIRS_A_LIMIT):
        form = Form(draw.randrange(20, 300), compat="trl" if compat else None)
        encoder = encoder_for(tokenizer, form)
        way = Way(form.max_tokens, compat, end_of_turn(tokenizer))
        for row in range(start, min(start + PAIRS_A_LIMIT, pairs)):
            one = encode_pair(draw_pair(draw, row), encoder, form.limits, "drawn")
            wrong = broken(one, way)
            found[f"BROKEN: {wrong}" if wrong else one.reason if isinstance(one, Refusal) else "accepted"] += 1
            found["cut"] += isinstance(one, EncodedPair) and bool(one.cut)
    return found


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer, which is eos in the three templates used here."""
    assert tokenizer.eos_token_id is not None
    return int(tokenizer.eos_token_id)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100_000)
    pairs = parser.parse_args().pairs
    good = whole = 0
    for name, made in TOKENIZERS.items():
        tokenizer = made()
        # TRL's mode renders each pair several times, so a tenth of the pairs has to do.
        for compat, of in ((False, pairs), (True, pairs // 10)):
            found = count(tokenizer, of, compat, seed=whole)
            print(f"{name}{', cut as TRL cuts' if compat else ''}: {dict(found)}", flush=True)
            good += of - sum(n for what, n in found.items() if what.startswith("BROKEN"))
            whole += of
            # A drill that only saw refusals, or never a cut, would prove nothing.
            good -= found["accepted"] < of // 10 or (compat and found["cut"] < of // 20)
    return verdict("D3 row invariants", good, whole, "pairs keep every promise")


if __name__ == "__main__":
    sys.exit(main())
