"""Pairs as tokens: what is refused, what may be dropped, and what every encoded pair keeps to."""

import random

import numpy as np
import pytest
from chat_tokenizers import FAMILIES, chat_tokenizer

from evenhand.data.schema import Message, PreferencePair, Refusal
from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair, Encoder, Encoding, Limits, encode_pair, encode_pairs, require_pairs, side
from evenhand.model.modes import strict_encoder
from evenhand.model.template import ChatTemplate

TEMPLATES = {family: ChatTemplate(chat_tokenizer(family)) for family in FAMILIES}


def pair(prompt: tuple[Message, ...] | str, chosen: str, rejected: str, row: int = 7) -> PreferencePair:
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return PreferencePair(f"p{row}", row, f"g{row}", turns, chosen, rejected)


def encoder(family: str = "llama3") -> Encoder:
    return strict_encoder(TEMPLATES[family])


def encoded(result: EncodedPair | Refusal) -> EncodedPair:
    assert isinstance(result, EncodedPair), result
    return result


def refused(result: EncodedPair | Refusal) -> Refusal:
    assert isinstance(result, Refusal), result
    return result


def dialogue() -> tuple[Message, ...]:
    return (
        Message("system", "Be brief."),
        Message("user", "first question " * 5),
        Message("assistant", "first answer " * 5),
        Message("user", "second question"),
        Message("assistant", "second answer"),
        Message("user", "third question"),
    )


def test_a_pair_that_just_fits_is_kept_and_one_token_less_refuses_it() -> None:
    given = pair("Where is it?", "It is on its way to you, by Friday.", "No.")
    longest = len(TEMPLATES["llama3"].sides(given.prompt, given.chosen)[0])
    kept = encoded(encode_pair(given, encoder(), Limits(longest), "pairs.jsonl"))
    assert (len(kept.chosen.tokens), kept.cut) == (longest, ())
    refusal = refused(encode_pair(given, encoder(), Limits(longest - 1), "pairs.jsonl"))
    assert refusal.reason == "too_long"
    assert refusal.detail == f"{longest} tokens with its prompt, and `max_tokens` is {longest - 1}"
    assert (refusal.file, refusal.row, refusal.text) == ("pairs.jsonl", 7, "Where is it?")


def test_the_longer_side_decides_whichever_it_is() -> None:
    swapped = pair("Where is it?", "No.", "It is on its way to you, by Friday.")
    longest = len(TEMPLATES["llama3"].sides(swapped.prompt, swapped.rejected)[0])
    assert str(longest) in refused(encode_pair(swapped, encoder(), Limits(longest - 1), "x")).detail


@pytest.mark.parametrize("left", [2, 1])
def test_oldest_turns_go_until_the_pair_fits(left: int) -> None:
    """`left` user turns stay: the system message is kept, and with each question its answer goes."""
    prompt = dialogue()
    shorter = (prompt[0], *prompt[{2: 3, 1: 5}[left] :])
    limit = max(len(TEMPLATES["llama3"].sides(shorter, answer)[0]) for answer in ("yes", "no"))
    found = encoded(encode_pair(pair(prompt, "yes", "no"), encoder(), Limits(limit, drop_turns=True), "x"))
    assert found.chosen.tokens.tolist() == TEMPLATES["llama3"].sides(shorter, "yes")[0]
    assert found.rejected.tokens.tolist() == TEMPLATES["llama3"].sides(shorter, "no")[0]


def test_turns_are_not_dropped_unasked_and_the_last_one_never() -> None:
    whole = len(TEMPLATES["llama3"].sides(dialogue(), "yes")[0])
    kept = refused(encode_pair(pair(dialogue(), "yes", "no"), encoder(), Limits(whole - 1), "x"))
    assert kept.detail.startswith(f"{whole} tokens")
    last = len(TEMPLATES["llama3"].sides((dialogue()[0], dialogue()[-1]), "yes")[0])
    given = pair(dialogue(), "yes", "no")
    tight = refused(encode_pair(given, encoder(), Limits(last - 1, drop_turns=True), "x"))
    assert tight.detail == f"{last} tokens with its prompt, and `max_tokens` is {last - 1}"


def test_a_pair_that_fits_keeps_all_its_turns_where_dropping_is_allowed() -> None:
    found = encoded(encode_pair(pair(dialogue(), "yes", "no"), encoder(), Limits(4096, drop_turns=True), "x"))
    assert found.chosen.tokens.tolist() == TEMPLATES["llama3"].sides(dialogue(), "yes")[0]


@pytest.mark.parametrize(("starts", "name"), [((3, 2), "chosen"), ((2, 3), "rejected"), ((2, 0), "rejected")])
def test_an_answer_without_a_scored_token_is_refused(starts: tuple[int, int], name: str) -> None:
    """Nothing after the prompt, or nothing before it: neither can be scored."""

    def empty(*_: object) -> tuple:
        return side([5, 6, 7], starts[0]), side([5, 6, 8], starts[1]), ()

    refusal = refused(encode_pair(pair("a", "b", "c"), empty, Limits(10), "x"))
    assert (refusal.reason, refusal.detail) == ("no_scored_token", f"the {name} answer has no scored token")


def test_an_empty_answer_is_scored_on_its_end_of_turn() -> None:
    found = encoded(encode_pair(pair("Hi", "", "Hello"), encoder(), Limits(100), "x"))
    assert found.chosen.scored == 1
    assert found.chosen.tokens[-1] == TEMPLATES["llama3"].end_of_turn


def test_answers_that_only_differ_in_what_the_template_drops_are_refused() -> None:
    refusal = refused(encode_pair(pair("Hi", "Hello", "  Hello\n"), encoder("llama3"), Limits(100), "x"))
    assert refusal.reason == "identical_answers_tokenised"
    assert encoded(encode_pair(pair("Hi", "Hello", "  Hello\n"), encoder("chatml"), Limits(100), "x"))


def test_every_pair_ends_up_in_one_of_two_places_in_order() -> None:
    pairs = [pair("Hi", "yes " * (i % 4 * 20 + 1), "no", i) for i in range(12)]
    found = encode_pairs(pairs, encoder(), Limits(50), "x")
    assert [p.row for p in found.pairs] == [i for i in range(12) if i % 4 == 0]
    assert [r.row for r in found.refusals] == [i for i in range(12) if i % 4]
    assert [(p.id, p.group) for p in found.pairs] == [(f"p{p.row}", f"g{p.row}") for p in found.pairs]


def test_no_pair_left_is_an_error_with_the_reasons() -> None:
    given = [pair("Hi", "Hello", "Hello", 0), pair("Hi", "Hello " * 90, "no", 1)]
    found = encode_pairs(given, encoder(), Limits(50), "pairs.jsonl")
    with pytest.raises(DataError, match=r"pairs.jsonl: none of 2 .*identical_answers_tokenised, too_long"):
        require_pairs(found, "pairs.jsonl")
    with pytest.raises(DataError, match=r"pairs.jsonl: .*(no rows|no pairs)"):
        require_pairs(Encoding((), ()), "pairs.jsonl")


WORDS = [
    "where",
    "is",
    "größer",
    "请稍等",
    "<|eot_id|>",
    "</s>",
    "[INST]",
    "<think>",
    "\n\n",
    "🙂",
    "yes",
    "no",
    "18:00",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoded_pair_keeps_the_promises(family: str) -> None:
    """500 random pairs a family: scored tokens, the limit, one end of turn, one prompt."""
    draw = random.Random(family)
    kept = 0
    for row in range(500):
        prompt, chosen, rejected = (" ".join(draw.choices(WORDS, k=draw.randrange(n))) for n in (30, 25, 25))
        limit = draw.randrange(20, 500)
        found = encode_pair(pair(prompt, chosen, rejected, row), encoder(family), Limits(limit), "x")
        if isinstance(found, Refusal):
            assert found.reason in ("too_long", "identical_answers_tokenised")
            continue
        kept += 1
        assert found.cut == ()
        assert found.chosen.starts == found.rejected.starts
        assert np.array_equal(found.chosen.tokens[: found.chosen.starts], found.rejected.tokens[: found.chosen.starts])
        for one in (found.chosen, found.rejected):
            assert 1 <= one.scored <= len(one.tokens) <= limit
            answer = one.tokens[one.starts :].tolist()
            assert answer[-1] == TEMPLATES[family].end_of_turn
            assert answer.count(TEMPLATES[family].end_of_turn) == 1
    assert 100 < kept < 500


def test_a_conversation_that_the_template_refuses_costs_its_row_and_no_other() -> None:
    good = pair("Where is it?", "On its way.", "No.", row=1)
    private = pair("What is \U000f0000 for?", "Nothing.", "No.", row=2)
    encoding = encode_pairs([private, good], encoder(), Limits(512), "pairs.jsonl")
    assert [kept.row for kept in encoding.pairs] == [1]
    (refusal,) = encoding.refusals
    assert (refusal.reason, refusal.row) == ("template_refused", 2)
    assert "private-use" in refusal.detail
    with pytest.raises(
        DataError, match=r"none of 1 pairs can be used \(template_refused\); the first is row 2: .*private-use"
    ):
        require_pairs(encode_pairs([private], encoder(), Limits(512), "pairs.jsonl"), "pairs.jsonl")
