"""What the model was before training, as scores that never move: the adapter switched off, or a second model.

Scores kept in a file are in `reference_cache`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from evenhand.errors import ModelError
from evenhand.model.encode import EncodedPair
from evenhand.model.forward import Policy
from evenhand.model.modes import Form, template_fingerprint, tokenizer_fingerprint
from evenhand.model.pack import PackedBatch
from evenhand.model.scores import PairScores, ScoredPairs

# Scores pairs under a policy without a gradient.
Scorer = Callable[[Policy, Sequence[EncodedPair]], ScoredPairs]


class Reference(Protocol):
    """Scores of the starting model; they do not depend on how far training is."""

    def __call__(self, batch: Sequence[EncodedPair], packed: PackedBatch, /) -> PairScores:
        """The scores of a micro-batch, without a gradient, on the device of the policy."""
        ...

    def scored(self, pairs: Sequence[EncodedPair], scorer: Scorer, /) -> ScoredPairs:
        """The scores of many pairs; `scorer` computes them where they have to be computed."""
        ...

    def words(self) -> str:
        """What it is and what it costs, for the log."""
        ...


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """The base model, until the end: every adapter layer stands aside. Unlike PEFT's own it touches no `requires_grad`,
    which would unsettle a sharded model."""
    layers = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before):
            layer._disable_adapters = was


@dataclass(frozen=True, slots=True)
class AdapterOff:
    """The policy without its adapter: no second copy of any weight."""

    policy: Policy

    def __post_init__(self) -> None:
        if not isinstance(self.policy.model, PeftModel):
            raise ModelError(
                "the reference cannot be the adapter switched off, since every weight is trained; take `reference: model`, "
                "which loads a second model, or `reference: cached`, which keeps scores in a file."
            )

    @contextmanager
    def _standing(self) -> Iterator[Policy]:
        training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad(), adapter_off(self.policy.model):
                yield self.policy
        finally:
            self.policy.train(training)

    def __call__(self, _batch: Sequence[EncodedPair], packed: PackedBatch, /) -> PairScores:
        """One more forward of the policy's own weights."""
        with self._standing() as policy:
            return _scores(policy, packed)

    def scored(self, pairs: Sequence[EncodedPair], scorer: Scorer, /) -> ScoredPairs:
        """Computed by `scorer`."""
        with self._standing() as policy:
            return scorer(policy, pairs)

    def words(self) -> str:
        """No byte."""
        return "the reference is the base model with the adapter switched off: no second copy, one more forward a pair"


@dataclass(frozen=True, slots=True)
class SecondModel:
    """A frozen model of its own."""

    policy: Policy
    name: str

    def __post_init__(self) -> None:
        self.policy.eval()
        self.policy.requires_grad_(False)

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return sum(weight.nbytes for weight in self.policy.parameters())

    def __call__(self, _batch: Sequence[EncodedPair], packed: PackedBatch, /) -> PairScores:
        """One forward of the second model."""
        with torch.no_grad():
            return _scores(self.policy, packed)

    def scored(self, pairs: Sequence[EncodedPair], scorer: Scorer, /) -> ScoredPairs:
        """Computed by `scorer`."""
        return scorer(self.policy, pairs)

    def words(self) -> str:
        """Its weights, in MiB."""
        return (
            f"the reference is a second model, {self.name}: {self.bytes / 2**20:.0f} MiB of weights beside the policy's, "
            "one more forward a pair"
        )


def require_same_text(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, form: Form, name: str) -> None:
    """Raise ModelError where the reference model would turn the same conversation into other tokens."""
    if tokenizer_fingerprint(ours) != tokenizer_fingerprint(theirs):
        raise ModelError(
            f"the reference model {name} has another tokenizer than the policy, so their log-probabilities are of other "
            "tokens; take a reference with the same one."
        )
    if form.template == "chat" and template_fingerprint(ours, form) != template_fingerprint(theirs, form):
        raise ModelError(
            f"the reference model {name} has another chat template than the policy, so it was made for other prompts; "
            "take a reference with the same one."
        )


def _scores(policy: Policy, packed: PackedBatch) -> PairScores:
    scores: PairScores = policy(packed)
    return scores
