"""FSDP2: weights, gradients and optimizer state sharded over ranks, each decoder layer gathered while it computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh, reshard_after_forward=True)


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


def _units(policy: Policy) -> list[FSDPModule]:
    return [module for module in policy.modules() if isinstance(module, FSDPModule)]
