"""FSDP2: weights, gradients and optimizer state sharded over ranks, each decoder layer gathered while it computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils import _pytree

from evenhand.errors import ModelError
from evenhand.model.forward import Policy, causal
from evenhand.model.scores import PairScores
from evenhand.training.ranks import Ranks
from evenhand.training.sections import TrainingSection

# FSDP looks for the tensors whose gradients begin a backward in what a forward returned.
_pytree.register_dataclass(PairScores)


def is_sharded(training: TrainingSection, ranks: Ranks) -> bool:
    """Whether this launch shards: as the recipe says, else as `accelerate config` did."""
    if ranks.size == 1 or training.parallel == "ddp":
        return False
    return training.parallel == "fsdp" or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def shard(policy: Policy, ranks: Ranks) -> None:
    """Shard `policy` in place, layer by layer, the rest as one unit that is gathered around a whole forward.

    Raises ModelError where the decoder has no list of layers.
    """
    layers = getattr(causal(policy.model).base_model, "layers", None)
    if layers is None:
        raise ModelError(
            f"{type(causal(policy.model)).__name__} has no `layers` to shard; use `training.parallel: ddp`."
        )
    mesh = init_device_mesh(policy.device.type, (ranks.size,))
    units = [fully_shard(layer, mesh=mesh) for layer in layers]
    units.append(fully_shard(policy, mesh=mesh, reshard_after_forward=True))
    # Said here, FSDP does not take from the forwards so far which unit backward needs next: the first rank alone answers
    # prompts between steps, and would then gather another one than the ranks that it gathers with.
    for unit, next_one in zip(units, [units[-1], *units]):
        unit.set_modules_to_backward_prefetch([next_one])


@contextmanager
def whole(policy: Policy) -> Iterator[None]:
    """Gather all weights on every rank for the block, in which forwards need no other rank; all ranks enter it."""
    make_whole(policy)
    try:
        yield
    finally:
        for unit in _units(policy):
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def make_whole(policy: Policy) -> None:
    """Gather all weights on every rank for good; a policy that was not sharded stays as it is."""
    for unit in _units(policy):
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def gathered_state(policy: Policy) -> dict[str, Tensor] | None:
    """The weights and buffers of `policy.model` by name, for saving, once they are whole; None for one that is not sharded.

    `state_dict` would shard them again, for which all ranks have to be there.
    """
    if not _units(policy):
        return None
    buffers = {
        f"{place}.{name}".lstrip("."): buffer  # the model itself has no place
        for place, module in policy.model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return {name: weight.detach() for name, weight in policy.model.named_parameters()} | buffers


def _units(policy: Policy) -> list[FSDPModule]:
    return [module for module in policy.modules() if isinstance(module, FSDPModule)]
