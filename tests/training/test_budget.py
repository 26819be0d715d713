"""The budget is measured without a trace, kept over a stop, and halved where memory runs out, with the same numbers."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny
from small_training import OBJECTIVE, assert_same_bits, run, settings, some_pairs, trained
from test_loop import DROPPING, StoppedError, stop_at

import evenhand.training.budget as room
from evenhand.errors import MemoryShortError, StepTooLargeError
from evenhand.model.encode import EncodedPair, side
from evenhand.model.forward import Policy
from evenhand.model.pack import PackedBatch, forest_tokens
from evenhand.training.budget import CPU_TOKEN_BUDGET, Fit, Probe, fastest, find_budget, longest_group, measured_fit
from evenhand.training.goal import Goal
from evenhand.training.journal import read_journal
from evenhand.training.memory import PeakWatch, free_bytes, is_out_of_memory, memory_peak_bytes
from evenhand.training.optim import MasterAdamW
from evenhand.training.plan import make_plan, micro_batches
from evenhand.training.share import Share
from evenhand.training.step import train_step

CPU = torch.device("cpu")
UNASKED: dict[str, Any] = {"token_budget": None}


@contextmanager
def room_for(tokens: int) -> Iterator[None]:
    """Micro-batches above `tokens` ask torch for more memory than there is."""
    forward = Policy.forward

    def limited(self: Policy, batch: PackedBatch) -> Any:
        found = forward(self, batch)
        if batch.tokens > tokens:
            torch.empty(1 << 60, dtype=torch.uint8)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "forward", limited)
        yield


def budgets(folder: Path) -> list[int]:
    return [record["token_budget"] for record in read_journal(folder / "journal.jsonl")]


@pytest.mark.parametrize("adapter", [None, DROPPING], ids=["full", "lora with dropout"])
def test_a_step_that_ran_out_of_memory_is_done_again_with_the_same_bits(tmp_path: Path, adapter: Any) -> None:
    with room_for(64):
        _, got = run(tmp_path / "halved", settings(token_budget=128), adapter=adapter)
    records = read_journal(tmp_path / "halved" / "journal.jsonl")
    budget = records[0]["token_budget"]
    assert 32 < budget <= 64
    assert budgets(tmp_path / "halved") == [budget] * 6
    assert [r["note"] for r in records if "note" in r] == [
        f"memory ran out at 128 tokens a micro-batch; going on with {budget}"
    ]
    _, wanted = run(tmp_path / "small", settings(token_budget=budget), adapter=adapter)
    assert_same_bits(got, wanted)
    if adapter is None:  # dropout draws its numbers for other tokens where the cut is another
        _, undisturbed = run(tmp_path / "large", settings(token_budget=128))
        for name, weight in undisturbed.items():
            assert float((got[name] - weight).norm()) <= 1e-6 * float(weight.norm())


def test_a_real_limit_of_the_address_space_halves_the_budget() -> None:
    """12,000 tokens of the tiny Llama want about 120 MB; a child gets 60."""
    command = [sys.executable, str(Path(__file__).parent / "starved.py"), str(60 << 20)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr
    assert 500 <= int(child.stdout) <= 6000


def test_a_row_that_fits_at_no_budget_is_named(tmp_path: Path) -> None:
    pairs = some_pairs(17)
    longest = max(forest_tokens([pair]) for pair in pairs)
    row = "|".join(str(pair.row) for pair in pairs if forest_tokens([pair]) == longest)
    with (
        room_for(longest - 1),
        pytest.raises(MemoryShortError, match=rf"row ({row}) makes a micro-batch of {longest} tokens.*checkpoint_act"),
    ):
        run(tmp_path, settings())


def test_an_error_that_is_not_of_memory_passes() -> None:
    policy = Policy(tiny("llama"))
    optimizer = MasterAdamW(policy, 0.0)
    outside = [EncodedPair(0, "x", "0", side([1, 2, 500], 2), side([1, 2, 3], 2))]  # no such token
    with pytest.raises(IndexError):
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone([outside]), (1e-3, 1.0))
    with room_for(1), pytest.raises(StepTooLargeError, match=r"can't allocate memory"):
        train_step(policy, Goal(OBJECTIVE), optimizer, Share.alone([some_pairs(2)]), (1e-3, 1.0))
    assert not optimizer.adamw.state


def test_a_stopped_run_goes_on_with_the_budget_that_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([70, 200])
    monkeypatch.setattr("evenhand.training.loop.find_budget", lambda *_: next(found))
    _, wanted = run(tmp_path / "whole", settings(token_budget=70))
    with pytest.raises(StoppedError):
        run(tmp_path / "stopped", settings(**UNASKED), stop_at(3))
    _, got = run(tmp_path / "stopped", settings(**UNASKED))
    assert budgets(tmp_path / "stopped") == [70] * 6
    assert_same_bits(got, wanted)


def test_a_pinned_budget_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenhand.training.loop.find_budget", lambda *_: pytest.fail("measured"))
    run(tmp_path, settings(token_budget=77))
    assert budgets(tmp_path) == [77] * 6


def test_a_short_run_gets_the_default_and_computes_nothing_for_it() -> None:
    pairs = some_pairs(30)
    policy = Policy(tiny("llama"))
    policy.forward = lambda *_: pytest.fail("computed")  # type: ignore[method-assign]
    assert find_budget(policy, OBJECTIVE, pairs, make_plan(pairs, 5, 0, (1000, None))) == CPU_TOKEN_BUDGET


@pytest.mark.parametrize("adapter", [None, DROPPING], ids=["full", "lora with dropout"])
def test_the_probe_leaves_no_trace(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from evenhand.training.train import make_policy

    monkeypatch.setattr(room, "CPU_SIZES", (64, 128, 256, 512))
    monkeypatch.setattr(room, "_LEAST_SAMPLE", 256)
    pairs = some_pairs(60, largest_group=3)
    policy = make_policy(tiny("llama", torch.bfloat16), adapter, settings())
    optimizer = MasterAdamW(policy, 0.0)
    policy.train()
    before, random = trained(policy), torch.get_rng_state()
    tried: list[int] = []
    seconds = Probe.seconds
    monkeypatch.setattr(Probe, "seconds", lambda self, budget: tried.append(budget) or seconds(self, budget))  # type: ignore[func-returns-value]
    found = find_budget(policy, OBJECTIVE, pairs, make_plan(pairs, 32, 0, (1_000_000, None)))
    assert found in (*room.CPU_SIZES, CPU_TOKEN_BUDGET)
    assert len(tried) > 2 * room._ROUNDS
    assert_same_bits(before, trained(policy))
    assert torch.equal(random, torch.get_rng_state())
    assert all(weight.grad is None for weight in [*policy.parameters(), *optimizer.masters])
    assert not optimizer.adamw.state
    assert policy.training


class Clock(Probe):
    """A probe of 9000 tokens whose times are given; every third is disturbed by a factor of ten."""

    __slots__ = ()
    cost: dict[int, float] = {}  # noqa: RUF012
    calls = 0

    def seconds(self, budget: int) -> float:
        Clock.calls += 1
        return self.cost[budget] * (10.0 if Clock.calls % 7 == 3 else 1.0)

    def first(self, tokens: int) -> Probe:
        return self

    @property
    def tokens(self) -> int:
        return 9000


@pytest.mark.parametrize(
    ("cost", "fits", "wanted"),
    [
        ({512: 1.30, 1024: 1.04, 2048: 1.0, 4096: 1.0, 8192: 1.0}, 1 << 20, 1024),  # within 5 %: the smaller
        ({512: 1.30, 1024: 1.06, 2048: 1.0, 4096: 1.0, 8192: 1.0}, 1 << 20, 2048),
        ({512: 1.2, 1024: 1.2, 2048: 1.1, 4096: 1.0, 8192: 0.8}, 1 << 20, 8192),
        ({512: 1.2, 1024: 1.1, 2048: 1.0, 4096: 0.9, 8192: 0.8}, 5000, 4096),  # what does not fit is not tried
    ],
)
def test_the_fastest_is_chosen_by_the_median_and_the_smaller_of_equals(
    cost: dict[int, float], fits: int, wanted: int
) -> None:
    Clock.cost, Clock.calls = cost, 0
    probe = Clock(Policy(tiny("llama")), OBJECTIVE, tuple(some_pairs(2)))
    assert fastest(probe, 9000, Fit(0.0, 1.0, fits)) == wanted


def test_memory_of_a_micro_batch_grows_as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CPU_SIZES", (2048, 8192))
    probe = Probe(Policy(tiny("llama")), OBJECTIVE, tuple(some_pairs(600)))
    fit = measured_fit(probe)
    assert 1e3 < fit.bytes_per_token < 1e5  # the tiny Llama keeps about 10 kB a token for its backward
    pairs = some_pairs(300)
    plan = make_plan(pairs, 32, 0, (1_000_000, None))
    longest, row = longest_group(pairs, plan)
    monkeypatch.setattr(room, "measured_fit", lambda _: Fit(0.0, 1.0, longest - 1))
    with pytest.raises(
        MemoryShortError, match=rf"row {row} makes a micro-batch of {longest} tokens and about {longest - 1} fit"
    ):
        find_budget(probe.policy, OBJECTIVE, pairs, plan)


def test_the_longest_group_is_found_exactly() -> None:
    for seed in range(5):
        pairs = some_pairs(60, seed, largest_group=4)
        groups: dict[str, list[EncodedPair]] = {}
        for pair in pairs:
            groups.setdefault(pair.group, []).append(pair)
        wanted = max(forest_tokens(group) for group in groups.values())
        tokens, row = longest_group(pairs, make_plan(pairs, 5, 0, (1, None)))
        assert tokens == wanted
        assert forest_tokens(groups[pairs[row].group]) == wanted


def test_a_peak_is_what_was_held_at_most() -> None:
    watch = PeakWatch(CPU)
    held = torch.ones(200 << 20, dtype=torch.uint8)  # more than malloc keeps
    del held
    assert 198 << 20 < watch.grown() < 220 << 20
    assert memory_peak_bytes(CPU) >= PeakWatch.highest_before > 100 << 20


def test_free_memory_respects_every_cgroup_above(tmp_path: Path) -> None:
    from evenhand.training.memory import _cgroup_rooms

    def cgroup(folder: Path, names: tuple[str, str, str], numbers: tuple[str, int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        limit, used, files = numbers
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {files}\n")

    two = ("memory.max", "memory.current", "inactive_file")
    one = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    cgroup(tmp_path / "a", two, ("1000", 400, 100))
    cgroup(tmp_path / "a" / "b", two, ("max", 300, 0))
    cgroup(tmp_path / "memory" / "c", one, ("900", 850, 0))
    assert _cgroup_rooms(tmp_path, "0::/a/b\n") == [700]
    assert _cgroup_rooms(tmp_path, "4:memory:/c\n3:cpuset:/\n0::/a\n") == [50, 700]
    assert _cgroup_rooms(tmp_path, "0::/\n") == []
    assert 1 << 26 < free_bytes(CPU) < 1 << 46


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_half_of_a_micro_batch_is_less() -> None:
    """The budget that follows a failure cuts at least the largest micro-batch in two, whatever the first budget was."""
    pairs = some_pairs(10)
    seen: list[int] = []

    def attempt(tokens: int) -> int:
        micro = micro_batches(pairs, tokens)[0]
        seen.append(max(forest_tokens(batch) for batch in micro))
        if len(micro) == 1:
            raise StepTooLargeError("memory ran out")
        return len(micro)

    count, budget = room.within_memory(pairs, 1 << 40, attempt, lambda: None)
    assert count > 1
    assert budget == seen[0] // 2
    assert len(micro_batches(pairs, budget)[0]) == count
