"""evenhand: align a language model with pairwise preferences by SimPO, and prove that it got better.

Public names are imported when they are first used, so that `import evenhand` is instant and needs no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "evenhand.model.adapter",
    "CPO": "evenhand.objectives.cpo",
    "DPO": "evenhand.objectives.dpo",
    "DPOConfig": "evenhand.lifecycle.trainers.config",
    "DPOTrainer": "evenhand.lifecycle.trainers.trainer",
    "EvenhandError": "evenhand.errors",
    "Figure": "evenhand.figure",
    "Form": "evenhand.model.modes",
    "Hinge": "evenhand.objectives.hinge",
    "IPO": "evenhand.objectives.ipo",
    "Judgment": "evenhand.data.schema",
    "KTO": "evenhand.objectives.kto",
    "Message": "evenhand.data.schema",
    "ORPO": "evenhand.objectives.orpo",
    "PreferencePair": "evenhand.data.schema",
    "RDPO": "evenhand.objectives.rdpo",
    "SLiC": "evenhand.objectives.hinge",
    "SimPO": "evenhand.objectives.simpo",
    "SimPOConfig": "evenhand.lifecycle.trainers.config",
    "SimPOTrainer": "evenhand.lifecycle.trainers.trainer",
    "Supervised": "evenhand.objectives.supervised",
    "Training": "evenhand.training.train",
    "audit": "evenhand.data.audit",
    "curate": "evenhand.data.curate",
    "evaluate": "evenhand.evaluation.evaluate",
    "read_judgments": "evenhand.data.read",
    "read_pairs": "evenhand.data.read",
    "train": "evenhand.training.train",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evenhand' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
