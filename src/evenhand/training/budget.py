"""How many tokens a micro-batch holds: measured at the start of a run, halved where memory runs out.

A probe computes gradients of the run's own first pairs and throws them away; no weight, gradient or random number of
the run is touched.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from evenhand.errors import MemoryShortError, StepTooLargeError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.pack import forest_tokens, pack
from evenhand.model.store import side_lengths
from evenhand.objectives.objective import Objective
from evenhand.training.memory import PeakWatch, free_bytes, is_out_of_memory
from evenhand.training.plan import Plan, micro_batches, steps_from

Result = TypeVar("Result")

# Where nothing is measured: fp32 on a CPU is fastest near the caches, a GPU wants long micro-batches.
CPU_TOKEN_BUDGET, GPU_TOKEN_BUDGET = 4096, 16384
CPU_SIZES = (512, 1024, 2048, 4096, 8192)
GPU_MOST_TOKENS = 65536
_ROUNDS = 3
_CLOSE = 1.05  # times within 5 % are the same, and then less memory is better
_HOPELESS = 1.25  # what is slower than that at first is not measured again
_PROBE_SHARE, _PROBE_SECONDS = 0.02, 60.0
_LEAST_SAMPLE = 2048
_USABLE = 0.8  # of free memory: the rest is for fragments, and for what others take
_BYTES_AFTER_PROBE = 12  # gradient and two moments of a trained weight, in fp32

_CURE = (
    "set `training.checkpoint_activations: true`, or lower `data.max_tokens` so that such rows are refused by name, or "
    "use a machine with more memory."
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A policy, and pairs to try it on."""

    policy: Policy
    objective: Objective
    sample: tuple[EncodedPair, ...]

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return self.policy.device

    def seconds(self, budget: int) -> float:
        """Time of all gradients of the sample, cut to `budget`; torch's out-of-memory errors pass through."""
        weights = [weight for weight in self.policy.parameters() if weight.requires_grad]
        batches = micro_batches(self.sample, budget)[0]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            began = time.perf_counter()
            for batch in batches:
                scores = self.policy(pack(batch))
                # With itself as reference: the graph is the same.
                loss = self.objective(scores, scores.detached()).sum()
                torch.autograd.grad(loss, weights, allow_unused=True)  # unlike backward it leaves nothing in `grad`
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            return time.perf_counter() - began

    def first(self, tokens: int) -> "Probe":
        """The same with about the first `tokens` tokens of the sample, one pair at the least."""
        ends = np.cumsum([forest_tokens([pair]) for pair in self.sample])
        return Probe(self.policy, self.objective, self.sample[: max(1, int(np.searchsorted(ends, tokens, "right")))])

    @property
    def tokens(self) -> int:
        """Tokens of the sample, pair by pair."""
        return sum(forest_tokens([pair]) for pair in self.sample)


@dataclass(frozen=True, slots=True)
class Fit:
    """What a micro-batch takes: `bytes_per_token` above `fixed_bytes`, and the largest that fits."""

    fixed_bytes: float
    bytes_per_token: float
    tokens: int


def default_budget(device: torch.device) -> int:
    """What suits the device where nothing was measured."""
    return GPU_TOKEN_BUDGET if device.type == "cuda" else CPU_TOKEN_BUDGET


def find_budget(policy: Policy, objective: Objective, pairs: Sequence[EncodedPair], plan: Plan) -> int:
    """Tokens of a micro-batch for this run on this machine: the largest that fits on a GPU, the fastest on a CPU.

    Measures for at most 2 % of the run and a minute; a run too short for that gets the default. Raises
    MemoryShortError naming the row where a pair, or the pairs of a ranked row, cannot fit at all.
    """
    probe = _probe(policy, objective, pairs, plan)
    default = default_budget(policy.device)
    longest, row = longest_group(pairs, plan)
    run_tokens = probe.tokens / len(probe.sample) * plan.batch_pairs * plan.steps
    size = min(max(CPU_SIZES), int(run_tokens * _PROBE_SHARE / (_ROUNDS * len(CPU_SIZES))))
    if size < _LEAST_SAMPLE and longest <= default:
        return default
    fit = measured_fit(probe)
    if longest > fit.tokens:
        raise MemoryShortError(
            f"row {row} makes a micro-batch of {longest} tokens and about {fit.tokens} fit in the free memory; {_CURE}"
        )
    if size < _LEAST_SAMPLE:
        return min(default, fit.tokens)
    if policy.device.type == "cuda":
        return largest_that_runs(probe, min(fit.tokens, GPU_MOST_TOKENS))
    return fastest(probe, size, fit)


def longest_group(pairs: Sequence[EncodedPair], plan: Plan) -> tuple[int, int]:
    """Tokens of the group that computes most, and its row; only groups that might be it are looked at."""
    bound_G = np.add.reduceat(side_lengths(pairs).sum(1)[plan.members_N], plan.borders_G1[:-1])
    most, row = 0, 0
    for g in np.argsort(-bound_G, kind="stable"):
        if bound_G[g] <= most:
            break
        group = [pairs[i] for i in plan.pairs_of(np.array([g]))]
        if (tokens := forest_tokens(group)) > most:
            most, row = tokens, group[0].row
    return most, row


def _probe(policy: Policy, objective: Objective, pairs: Sequence[EncodedPair], plan: Plan) -> Probe:
    """The first pairs of the plan, as many as the largest size of micro-batch holds."""
    wanted = GPU_MOST_TOKENS if policy.device.type == "cuda" else max(CPU_SIZES)
    sample: list[EncodedPair] = []
    tokens = 0
    for _, indices in steps_from(plan, 0):
        for i in indices:
            tokens += forest_tokens([pairs[i]])
            if sample and tokens > wanted:
                return Probe(policy, objective, tuple(sample))
            sample.append(pairs[i])
    return Probe(policy, objective, tuple(sample))


def measured_fit(probe: Probe) -> Fit:
    """Memory of two micro-batches, a small and a larger one, and what follows for all sizes."""
    device = probe.device
    small = probe.first(CPU_SIZES[0])
    large = probe.first(4 * small.tokens)
    small.seconds(small.tokens)  # the first of all allocates what stays
    taken = []
    for one in (small, large):
        watch = PeakWatch(device)
        one.seconds(one.tokens)
        taken.append(watch.grown())
    apart = large.tokens - small.tokens
    per_token = max((taken[1] - taken[0]) / apart if apart else taken[1] / large.tokens, 1.0)
    fixed = max(0.0, taken[0] - per_token * small.tokens)
    trained = sum(weight.numel() for weight in probe.policy.parameters() if weight.requires_grad)
    room = _USABLE * free_bytes(device) - _BYTES_AFTER_PROBE * trained - fixed
    return Fit(fixed, per_token, max(1, int(room / per_token)))


def largest_that_runs(probe: Probe, budget: int) -> int:
    """`budget`, in whole 1024s, or the first half of it that runs."""
    budget = max(1024, budget // 1024 * 1024)
    while budget > 1024:
        try:
            probe.first(budget).seconds(budget)
            return budget
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        _let_go()
        budget //= 2
    return budget


def fastest(probe: Probe, most_tokens: int, fit: Fit) -> int:
    """The smallest of the sizes whose median time over rounds is within 5 % of the best.

    All sizes cut the same pairs, in turns, so that neither the pairs nor what else the machine does favours one.
    """
    warm = probe.first(CPU_SIZES[1])
    rate = warm.tokens / warm.seconds(CPU_SIZES[1])
    sample = probe.first(min(most_tokens, int(rate * _PROBE_SECONDS / (_ROUNDS * len(CPU_SIZES)))))
    sizes = [size for size in CPU_SIZES if size <= min(fit.tokens, sample.tokens * _HOPELESS)]
    if sample.tokens < _LEAST_SAMPLE or len(sizes) < 2:
        return min(CPU_TOKEN_BUDGET, fit.tokens)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(_ROUNDS):
        for size in sizes:
            seconds[size].append(sample.seconds(size))
        least = {size: min(seconds[size]) for size in sizes}
        if number == 1:  # one measurement may be the machine's mood, the lesser of two hardly
            sizes = [size for size in sizes if least[size] <= _HOPELESS * min(least.values())]
    medians = {size: statistics.median(seconds[size]) for size in sizes}
    choice = min(size for size in sizes if medians[size] <= _CLOSE * min(medians.values()))
    # Where the largest of a short sample wins, a larger one than was measured might be better still.
    return max(choice, min(CPU_TOKEN_BUDGET, fit.tokens)) if choice == max(seconds) else choice


def within_memory(
    pairs: Sequence[EncodedPair], budget: int, attempt: Callable[[int], Result], restart: Callable[[], None]
) -> tuple[Result, int]:
    """`attempt` a step over `pairs` at `budget`, with half the budget after each time that memory ran out; also the last budget.

    Before every new attempt `restart` forgets what the last one left, and random numbers are those of the first.
    Raises MemoryShortError where micro-batches of one row each are still too large.
    """
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    while True:
        try:
            return attempt(budget), budget
        except StepTooLargeError:
            pass  # what the attempt holds is only let go after this block
        restart()
        _let_go()
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        micro = micro_batches(pairs, budget)[0]
        tokens, row = max((forest_tokens(batch), batch[0].row) for batch in micro)
        if all(len({pair.group for pair in batch}) == 1 for batch in micro):
            raise MemoryShortError(f"row {row} makes a micro-batch of {tokens} tokens and memory ran out; {_CURE}")
        budget = min(budget, tokens) // 2


def budget_note(before: int, now: int) -> dict[str, str]:
    """What the journal and the person at the terminal are told of a step that changed the budget."""
    return {} if before == now else {"note": f"memory ran out at {before} tokens a micro-batch; going on with {now}"}


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
