"""A forest of sequences: each gives back its own tokens, and no token that can be shared stands twice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.model.encode import EncodedPair, EncodedSide, side
from evenhand.model.pack import PackedBatch, forest_tokens, pack

# Few different tokens, so that beginnings are shared by chance.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6)
few_pairs = st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=7)


def pair(prompt: list[int], chosen: list[int], rejected: list[int]) -> EncodedPair:
    return EncodedPair(0, "", "", side(prompt + chosen, len(prompt)), side(prompt + rejected, len(prompt)))


def paths_of(batch: PackedBatch) -> list[list[int]]:
    """For each run its path, as the layout's indices."""
    return [batch.forest.path_K[a:b].tolist() for _, _, a, b in batch.forest.runs]


def path_of(batch: PackedBatch, one: EncodedSide) -> list[int]:
    """The one path whose beginning spells the sequence."""
    wanted = one.tokens.tolist()
    layout = batch.tokens_T.tolist()
    found = {
        tuple(path[: len(wanted)]) for path in paths_of(batch) if [layout[i] for i in path[: len(wanted)]] == wanted
    }
    assert found
    return list(min(found))


@settings(max_examples=200, deadline=None)
@given(rows=few_pairs, share=st.booleans())
def test_runs_lay_out_every_sequence(rows: list, share: bool) -> None:
    batch = pack([pair(*row) for row in rows], share)
    positions = batch.positions_T.tolist()
    covered: list[int] = []
    for (start, end, key_start, key_end), path in zip(batch.forest.runs, paths_of(batch)):
        assert path[-(end - start) :] == list(range(start, end))
        assert [positions[i] for i in path] == list(range(key_end - key_start))
        covered += range(start, end)
    assert covered == list(range(batch.tokens))
    assert batch.forest.query_starts_R1.tolist() == [*(run[0] for run in batch.forest.runs), batch.tokens]
    assert batch.forest.key_starts_R1.tolist() == [*(run[2] for run in batch.forest.runs), len(batch.forest.path_K)]
    assert batch.forest.longest_query == max(end - start for start, end, _, _ in batch.forest.runs)
    assert batch.forest.longest_key == max(len(path) for path in paths_of(batch))
    for one in batch.sequences:
        assert [batch.tokens_T[i] for i in path_of(batch, one)] == one.tokens.tolist()


@settings(max_examples=200, deadline=None)
@given(rows=few_pairs)
def test_scored_tokens_are_those_of_a_naive_reconstruction(rows: list) -> None:
    pairs = [pair(*row) for row in rows]
    batch = pack(pairs)
    predict, target = batch.predict_N.tolist(), batch.target_N.tolist()
    assert len(set(zip(predict, target))) == len(predict), "a scored token is computed twice"
    entries = torch.split(batch.entry_E, batch.scored_S.tolist())
    assert len(entries) == len(batch.sequences)
    for one, entry in zip(batch.sequences, entries):
        path = path_of(batch, one)
        assert [predict[e] for e in entry] == path[one.starts - 1 : -1]
        assert [target[e] for e in entry] == one.tokens[one.starts :].tolist()
    for i, given_pair in enumerate(pairs):
        for index, one in ((batch.chosen_B[i], given_pair.chosen), (batch.rejected_B[i], given_pair.rejected)):
            found = batch.sequences[index]
            assert (found.tokens.tolist(), found.starts) == (one.tokens.tolist(), one.starts)


@settings(max_examples=200, deadline=None)
@given(rows=few_pairs)
def test_every_token_that_can_be_shared_is_computed_once(rows: list) -> None:
    pairs = [pair(*row) for row in rows]
    whole = [one.tokens.tolist() for given_pair in pairs for one in (given_pair.chosen, given_pair.rejected)]
    trie = {tuple(sequence[: i + 1]) for sequence in whole for i in range(len(sequence))}
    assert pack(pairs).tokens == len(trie) == forest_tokens(pairs)


@settings(max_examples=50, deadline=None)
@given(rows=few_pairs)
def test_without_sharing_every_side_has_its_own_run(rows: list) -> None:
    pairs = [pair(*row) for row in rows]
    batch = pack(pairs, share=False)
    sides = [one for given_pair in pairs for one in (given_pair.chosen, given_pair.rejected)]
    assert batch.tokens == sum(len(one.tokens) for one in sides)
    assert len(batch.forest.runs) == len(sides)
    assert len(set(batch.chosen_B.tolist() + batch.rejected_B.tolist())) == len(sides)
    assert all(end - start == key_end - key_start for start, end, key_start, key_end in batch.forest.runs)


def test_a_forest_by_hand() -> None:
    batch = pack([pair([9, 8], [5, 6, 7], [5, 4])])
    assert batch.tokens_T.tolist() == [9, 8, 5, 4, 6, 7]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 3, 4]
    assert paths_of(batch) == [[0, 1, 2, 3], [0, 1, 2, 4, 5]]
    assert batch.predict_N.tolist() == [1, 2, 2, 4]
    assert batch.target_N.tolist() == [5, 4, 6, 7]
    assert batch.entry_E.tolist() == [0, 1, 0, 2, 3]
    assert batch.scored_S.tolist() == [2, 3]
    assert (batch.chosen_B.tolist(), batch.rejected_B.tolist()) == ([1], [0])


@pytest.mark.parametrize("answers", [2, 4, 7])
def test_ranked_answers_are_computed_once(answers: int) -> None:
    """k answers to one prompt cost P + kR tokens, whatever number of pairs they make."""
    prompt, length = list(range(100, 130)), 11
    replies = [[k, *range(50, 50 + length - 1)] for k in range(answers)]
    pairs = [pair(prompt, a, b) for i, a in enumerate(replies) for b in replies[i + 1 :]]
    batch = pack(pairs)
    assert batch.tokens == len(prompt) + answers * length == forest_tokens(pairs)
    assert len(batch.sequences) == answers
    assert len(batch.predict_N) == answers * length


def test_one_sequence_scored_from_two_places() -> None:
    """The same tokens with another border between prompt and answer: computed once, scored twice."""
    pairs = [pair([1, 2], [3, 4], [5]), pair([1, 2, 3], [4], [6])]
    batch = pack(pairs)
    assert batch.tokens == 6
    assert sorted((one.tokens.tolist(), one.starts) for one in batch.sequences)[:2] == [
        ([1, 2, 3, 4], 2),
        ([1, 2, 3, 4], 3),
    ]
    assert batch.scored_S[batch.chosen_B].tolist() == [2, 1]
    first, second = (torch.split(batch.entry_E, batch.scored_S.tolist())[i] for i in batch.chosen_B)
    assert first[-1:].tolist() == second.tolist()


def test_a_sequence_that_is_the_beginning_of_another() -> None:
    batch = pack([pair([1], [2], [2, 3])])
    assert batch.tokens == 3
    assert batch.scored_S.tolist() == [1, 2]
    assert batch.target_N[batch.entry_E].tolist() == [2, 2, 3]


def test_large_token_numbers_sort_as_numbers() -> None:
    pairs = [pair([255, 256], [65_536], [1]), pair([255, 256], [2], [128_000])]
    assert pack(pairs).tokens == 6
    assert pack(pairs).tokens_T.dtype == torch.int64
    assert np.array_equal(np.sort(pack(pairs).tokens_T.numpy()), [1, 2, 255, 256, 65_536, 128_000])


def test_moving_to_where_it_is_changes_nothing() -> None:
    batch = pack([pair([1], [2], [3])])
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {moved.tokens_T.device.type, moved.entry_E.device.type, moved.forest.path_K.device.type} == {"meta"}
    assert moved.forest.runs == batch.forest.runs
