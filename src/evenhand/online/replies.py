"""Sampled replies as sequences of the forest, with the log-probability, value and hidden state of every token.

Shapes: S replies, E tokens of all replies end to end, V vocabulary, d hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from evenhand.model.encode import ABSENT, EncodedPair, EncodedSide
from evenhand.model.forward import Policy, causal, forest_states, output_head, padded_rows
from evenhand.model.head import token_log_probs
from evenhand.model.pack import PackedBatch, pack


@dataclass(frozen=True, slots=True)
class Told:
    """What a policy says of each token, (E,): its log-probability, and its value where there is a value head."""

    log_prob_E: Tensor
    value_E: Tensor | None


def starts_of(replies: Sequence[EncodedSide]) -> list[int]:
    """Where each reply's tokens start among those of all, and where they end.

    >>> from evenhand.model.encode import side
    >>> starts_of([side([1, 2, 3], 1), side([1, 2], 1)])
    [0, 2, 3]
    """
    return list(accumulate((reply.scored for reply in replies), initial=0))


def read_tokens(policy: Policy, replies: Sequence[EncodedSide], value_head: nn.Linear | None) -> Told:
    """Log-probabilities, and values by `value_head`, of every token of the replies, in their order, in fp32.

    Replies to one prompt share it. Both come from the hidden state before the token, so a value knows the reply up to
    the token and not the token itself. A gradient flows where weights require one.
    """
    packed, order_S = _packed(replies)
    packed = packed.to(policy.device)
    hidden_Ed = _padded_hidden(policy, packed) if policy.padded_because else _forest_hidden(policy, packed)
    head = output_head(causal(policy.model))
    target_E = packed.target_N.index_select(0, packed.entry_E)
    log_prob_E = token_log_probs(hidden_Ed, head.weight_Vd, head.bias_V, target_E, head.form, policy.chunk)
    place_E = _in_given_order(packed, order_S)
    value_E = None if value_head is None else value_head(hidden_Ed.float())[:, 0]
    return Told(log_prob_E[place_E], None if value_E is None else value_E[place_E])


def _packed(replies: Sequence[EncodedSide]) -> tuple[PackedBatch, Tensor]:
    """The replies as a forest, and which of its sequences each of them is."""
    packed = pack([EncodedPair(i, str(i), str(i), reply, ABSENT) for i, reply in enumerate(replies)])
    return packed, packed.chosen_B


def _in_given_order(packed: PackedBatch, order_S: Tensor) -> Tensor:
    """Where each token of the replies, as they were given, stands among those of the forest's sequences."""
    ends = packed.scored_S.cumsum(0)
    starts = ends - packed.scored_S
    return torch.cat([torch.arange(int(starts[i]), int(ends[i]), device=ends.device) for i in order_S.tolist()])


def _forest_hidden(policy: Policy, packed: PackedBatch) -> Tensor:
    """The hidden state that predicts each scored token, sequence after sequence."""
    predicting_Nd = forest_states(causal(policy.model), packed).index_select(0, packed.predict_N)
    return predicting_Nd.index_select(0, packed.entry_E)


def _padded_hidden(policy: Policy, packed: PackedBatch) -> Tensor:
    """The same from padded rows."""
    tokens_SL, mask_SL = padded_rows(policy, packed)
    model = causal(policy.model)
    hidden_SLd = model.base_model(input_ids=tokens_SL, attention_mask=mask_SL, use_cache=False).last_hidden_state
    parts = [hidden_Ld[s.starts - 1 : len(s.tokens) - 1] for hidden_Ld, s in zip(hidden_SLd, packed.sequences)]
    return torch.cat(parts)
