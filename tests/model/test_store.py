"""A store gives back the pairs that were put in, as views of a mapped file, and trusts no file that is not its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chat_tokenizers import chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

import evenhand.model.store as room
from evenhand.data.schema import Message, PreferencePair, Refusal
from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair, encode_pairs, require_pairs, side
from evenhand.model.modes import Form, encoder_for
from evenhand.model.store import (
    TokenStore,
    count_cut,
    group_numbers,
    rows_of,
    side_lengths,
    stored_encoding,
    tokens_hash,
    write_store,
)
from evenhand.model.workshop import Workshop

tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9)
sides = st.builds(lambda found: side(found, len(found) // 2), tokens)
words = st.text(st.characters(codec="utf-8"), max_size=4)
some_pairs = st.lists(
    st.builds(
        EncodedPair,
        st.integers(0, 2**40),
        words,
        st.sampled_from("abc"),
        sides,
        sides,
        st.sampled_from([(), ("chosen",)]),
    ),
    max_size=12,
)


def plain(pair: EncodedPair) -> tuple[object, ...]:
    both = [(one.tokens.tolist(), one.starts) for one in (pair.chosen, pair.rejected)]
    return pair.row, pair.id, pair.group, both, pair.cut


def numbered(count: int, groups: int = 3) -> list[EncodedPair]:
    return [
        EncodedPair(i, f"id{i}", f"g{i * 7 % groups}", side([1, 2, 3 + i], 2), side([1, 2, i, 5], 2))
        for i in range(count)
    ]


@settings(deadline=None, max_examples=60)
@given(pairs=some_pairs, size=st.integers(1, 5))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, pairs: list[EncodedPair], size: int) -> None:
    path = tmp_path_factory.mktemp("store") / "pairs.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "BATCH_PAIRS", size)
        write_store(path, iter(pairs))
        store = TokenStore(path)
        assert len(store) == len(pairs)
        assert (
            [plain(pair) for pair in store] == [plain(store[i]) for i in range(len(store))] == list(map(plain, pairs))
        )
        assert [plain(pair) for pair in store[1:-1]] == list(map(plain, pairs[1:-1]))
        assert rows_of(store).tolist() == [pair.row for pair in pairs]
        assert side_lengths(store).tolist() == [[len(p.chosen.tokens), len(p.rejected.tokens)] for p in pairs]
        assert count_cut(store) == sum(bool(pair.cut) for pair in pairs)
        first = list(dict.fromkeys(pair.group for pair in pairs))
        assert group_numbers(store).tolist() == [first.index(pair.group) for pair in pairs]
        assert tokens_hash(store) == tokens_hash(pairs)
    assert tokens_hash(pairs) == tokens_hash(store)  # whatever the size of a block


def test_places_outside_are_refused_and_negative_ones_count_from_the_end(tmp_path: Path) -> None:
    write_store(tmp_path / "x.arrow", numbered(5))
    store = TokenStore(tmp_path / "x.arrow")
    assert plain(store[-1]) == plain(store[4])
    for place in (5, -6):
        with pytest.raises(IndexError, match=f"pair {place} of 5"):
            store[place]


def test_tokens_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write_store(tmp_path / "x.arrow", numbered(2000))
    store = TokenStore(tmp_path / "x.arrow")
    one = store[1500].chosen.tokens
    assert np.shares_memory(one, store.blocks[1].chosen.tokens_T)
    assert not one.flags.writeable
    maps = Path("/proc/self/maps").read_text()
    start, end = next(
        (int(a, 16) for a in line.split()[0].split("-")) for line in maps.splitlines() if line.endswith("x.arrow")
    )
    assert start <= one.__array_interface__["data"][0] < end


@pytest.mark.parametrize(
    "change",
    [
        lambda pair: EncodedPair(pair.row, pair.id, "other", pair.chosen, pair.rejected),
        lambda pair: EncodedPair(pair.row, pair.id, pair.group, side(pair.chosen.tokens.tolist(), 1), pair.rejected),
        lambda pair: EncodedPair(pair.row, pair.id, pair.group, pair.chosen, side([1, 2, 9, 5], 2)),
        lambda pair: EncodedPair(pair.row, pair.id, pair.group, pair.rejected, pair.chosen),
    ],
    ids=["group", "start", "token", "sides"],
)
def test_the_hash_sees_every_change(change: object) -> None:
    pairs = numbered(6)
    changed = [*pairs[:3], change(pairs[3]), *pairs[4:]]  # type: ignore[operator]
    assert len({tokens_hash(found) for found in (pairs, changed, pairs[::-1])}) == 3


class Counted:
    """An encoding that tells how often it was asked for."""

    def __init__(self, pairs: list[EncodedPair]) -> None:
        self.pairs, self.asked = pairs, 0

    def __call__(self) -> Iterator[EncodedPair | Refusal]:
        self.asked += 1
        for pair in self.pairs:
            yield pair
            yield Refusal("x", None, 100 + pair.row, "too_long", "é", "text")


def test_a_second_start_encodes_nothing_and_a_change_uses_no_stale_file(tmp_path: Path) -> None:
    first, other = Counted(numbered(4)), Counted(numbered(7))
    made = stored_encoding(tmp_path, "train", "a" * 64, first)
    again = stored_encoding(tmp_path, "train", "a" * 64, first)
    assert first.asked == 1
    assert list(map(plain, again.pairs)) == list(map(plain, made.pairs)) == list(map(plain, numbered(4)))
    assert again.refusals == made.refusals == tuple(r for r in first() if isinstance(r, Refusal))
    changed = stored_encoding(tmp_path, "train", "b" * 64, other)
    assert (len(changed.pairs), other.asked) == (7, 1)
    stored_encoding(tmp_path, "validation", "c" * 64, other)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"{n}.{e}" for n in ("train-" + "b" * 16, "validation-" + "c" * 16) for e in ("arrow", "json")}
    assert list(map(plain, made.pairs)) == list(map(plain, numbered(4)))  # mapped still, though its name is gone


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    stored_encoding(tmp_path, "train", "a" * 64, Counted(numbered(4)))
    assert len(stored_encoding(tmp_path, "train", "a" * 63 + "b", Counted(numbered(5))).pairs) == 5


@pytest.mark.parametrize("damage", ["byte", "short", "long", "gone", "sidecar", "sidecar gone"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    encode = Counted(numbered(40))
    stored_encoding(tmp_path, "train", "a" * 64, encode)
    path = next(tmp_path.glob("*.arrow"))
    content, about = path.read_bytes(), path.with_suffix(".json")
    match damage:
        case "byte":
            path.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
        case "short":
            path.write_bytes(content[:-9])
        case "long":
            path.write_bytes(content + b"x")
        case "gone":
            path.unlink()
        case "sidecar":
            about.write_text(json.dumps(json.loads(about.read_text()) | {"refusals": [{"x": 1}]}))
        case "sidecar gone":
            about.unlink()
    found = stored_encoding(tmp_path, "train", "a" * 64, encode)
    assert encode.asked == 2
    assert list(map(plain, found.pairs)) == list(map(plain, numbered(40)))
    assert path.read_bytes() == content


def test_nothing_is_written_where_nothing_can_be_encoded_or_encoding_fails(tmp_path: Path) -> None:
    def nothing() -> Iterator[EncodedPair | Refusal]:
        yield Refusal("x", None, 1, "too_long", "", "")

    def failing() -> Iterator[EncodedPair | Refusal]:
        yield from numbered(3)
        raise KeyboardInterrupt

    folder = tmp_path / "tokens"
    encoding = stored_encoding(folder, "train", "a" * 64, nothing)
    assert (len(encoding.pairs), len(encoding.refusals)) == (0, 1)
    with pytest.raises(DataError, match="none of 1 pairs can be used"):
        require_pairs(encoding, "x")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        stored_encoding(folder, "train", "a" * 64, failing)
    assert not list(folder.iterdir())


def texts(count: int = 5) -> list[PreferencePair]:
    return [
        PreferencePair(f"id{i}", i, f"g{i}", (Message("user", f"What is {i}?"),), f"It is {i}.", "No idea." + "!" * i)
        for i in range(count)
    ]


def test_a_workshop_keeps_what_encoding_gives(tmp_path: Path) -> None:
    form, told = Form(max_tokens=40), []
    tokenizer = chat_tokenizer("llama3")
    wanted = encode_pairs(texts(), encoder_for(tokenizer, form), form.limits, "train.jsonl")
    found = Workshop(tokenizer, form, tmp_path).encode(texts(), "train", "train.jsonl", told.append)
    assert isinstance(found.pairs, TokenStore)
    assert list(map(plain, found.pairs)) == list(map(plain, wanted.pairs))
    assert found.refusals == wanted.refusals
    assert told == [5]
    assert len(Workshop(tokenizer, form, tmp_path).encode([], "validation", "x").pairs) == 0


def test_the_key_follows_everything_that_decides_the_tokens() -> None:
    base, other = chat_tokenizer("llama3"), chat_tokenizer("chatml")
    form, pairs = Form(max_tokens=40), texts()
    workshop = Workshop(base, form)
    keys = [
        workshop.key(pairs, "x"),
        workshop.key(pairs, "y"),
        workshop.key(pairs[::-1], "x"),
        workshop.key(pairs[:-1], "x"),
        Workshop(other, form).key(pairs, "x"),
        Workshop(base, Form(max_tokens=41)).key(pairs, "x"),
        Workshop(base, Form(max_tokens=40, drop_turns=True)).key(pairs, "x"),
    ]
    assert len(set(keys)) == len(keys)
    assert workshop.key(texts(), "x") == keys[0]
