"""What PPO trains: a policy with a value head on its hidden states, beside the policy as it was."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

from evenhand.model.forward import Policy, causal
from evenhand.model.reference import adapter_off


class Learner(nn.Module):
    """A policy and its value head, one linear layer in fp32 that starts at zero (Huang et al. 2024, "The N
    implementation details of RLHF with PPO").

    The reference is the base with the adapter switched off, or where every weight is trained a frozen copy. Dropout is
    off from first to last, since it would make ratios of two forwards differ from 1 by themselves.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        width = causal(policy.model).get_input_embeddings().weight.shape[1]
        self.value_head = nn.Linear(width, 1, dtype=torch.float32, device=policy.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._frozen = None if isinstance(policy.model, PeftModel) else _frozen_copy(policy)
        self.eval()

    @contextmanager
    def reference(self) -> Iterator[Policy]:
        """The policy as it was before training; for scoring, not for training."""
        if self._frozen is not None:
            yield self._frozen[0]
            return
        model = self.policy.model
        assert isinstance(model, PeftModel)
        with adapter_off(model):
            yield self.policy


def _frozen_copy(policy: Policy) -> tuple[Policy]:
    """In a tuple, so that it is no part of what is trained and saved."""
    frozen = Policy(copy.deepcopy(policy.model))
    frozen.requires_grad_(False)
    return (frozen.eval(),)
