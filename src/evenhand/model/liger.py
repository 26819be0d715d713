"""Liger's RoPE, RMSNorm and SwiGLU on CUDA, where liger-kernel is installed; its cross-entropy stays off.

Liger patches a model by a public function for each architecture. Those functions also exchange classes of
transformers for models made later; that is taken back, so that only the model at hand is changed. RoPE is a function
that all models of an architecture share: there the tensor's device decides.
"""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

_ROPE = "apply_rotary_pos_emb"
_WANTED = ("rope", "rms_norm", "swiglu", "geglu")


def engage(model: PreTrainedModel) -> str | None:
    """Give `model` Liger's kernels where it lies on CUDA and Liger is there and knows it; their name, or None."""
    if next(model.parameters()).device.type != "cuda" or find_spec("liger_kernel") is None:
        return None
    try:
        library = import_module("liger_kernel.transformers")
    except (ImportError, RuntimeError, OSError):  # no Triton, or one that does not fit torch
        return None
    return engage_from(library, model)


def engage_from(library: ModuleType, model: PreTrainedModel) -> str | None:
    """The same with Liger's module at hand; a model that has them already is left as it is."""
    patch: Callable[..., None] | None = getattr(library, f"apply_liger_kernel_to_{model.config.model_type}", None)
    if patch is None:
        return None
    takes = inspect.signature(patch).parameters
    wanted = {name: True for name in _WANTED if name in takes}
    off = {name: False for name in takes if "cross_entropy" in name}
    name = f"Liger's {', '.join(wanted)}"
    if not getattr(model, "_evenhand_liger", False):
        _patch_only(model, lambda: patch(model=model, **wanted, **off))
        model._evenhand_liger = True
    return name


def _patch_only(model: PreTrainedModel, patch: Callable[[], None]) -> None:
    module = sys.modules[next(c for c in type(model).__mro__ if "modeling_" in c.__module__).__module__]
    before = dict(vars(module))
    patch()
    for name, value in before.items():
        if getattr(module, name) is not value and name != _ROPE:
            setattr(module, name, value)
    if _ROPE in before and (changed := getattr(module, _ROPE)) is not before[_ROPE]:
        setattr(module, _ROPE, by_device(changed, before[_ROPE]))


def by_device(on_cuda: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs `on_cuda` where its first tensor lies there, else `elsewhere`."""

    def chosen(query: Tensor, *args: Any, **options: Any) -> Any:
        return (on_cuda if query.is_cuda else elsewhere)(query, *args, **options)

    return chosen
