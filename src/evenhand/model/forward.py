"""Scores of packed pairs under a policy: one forward over the forest, or over padded rows where it cannot be shared.

A reward model is a policy too: a sequence-classification model of one label, whose reward stands where a language
model's mean log-probability does, so that whatever reads means (accuracy, slices, lengths, gates) reads rewards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from evenhand.errors import DataError, ModelError
from evenhand.model import attention, kernel, liger
from evenhand.model.encode import EncodedPair, side
from evenhand.model.head import LogitForm, head_chunk, token_log_probs
from evenhand.model.pack import PackedBatch, pack
from evenhand.model.scores import PairScores
from evenhand.model.store import side_lengths


class Policy(nn.Module):
    """A causal language model, or a reward model, and the way it is run: `policy(batch)` gives PairScores.

    `padded_because` is None where the forest is used, else the reason in words, for the log and the report. So is
    `run_by_run_because` where a GPU attends to all runs in one call, and None on a CPU. `kernels` names what else runs.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        self.chunk = head_chunk(causal(model).config.get_text_config().vocab_size, self.device)
        self.plain_attention = plain_attention(causal(model))
        self.gives_rewards = gives_rewards(causal(model))
        self.run_by_run_because: str | None = None
        self.kernels = tuple(name for name in (kernel.activate(self.device), liger.engage(causal(model))) if name)
        self.padded_because = why_padded(self)

    def words(self) -> list[str]:
        """How the model is run, a sentence each, for the log; nothing on a CPU that shares."""
        said = [f"running on padded rows, since {self.padded_because}"] if self.padded_because else []
        if self.run_by_run_because:
            said.append(f"attention goes run by run, which is slower, since {self.run_by_run_because}")
        return said + ([f"running with {', '.join(self.kernels)}"] if self.kernels else [])

    def release(self) -> None:
        """Give the model back as it was: with the attention it came with."""
        use_attention(causal(self.model), self.plain_attention)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def forward(self, batch: PackedBatch) -> PairScores:
        """Scores with a gradient where weights require one."""
        batch = batch.to(self.device)
        sums_S = self.padded(batch) if self.padded_because else self.shared(batch)
        # An absent side is number -1: what stands last.
        sums_S1 = torch.cat([sums_S, sums_S.new_zeros(1)])
        scored_S1 = torch.cat([batch.scored_S, batch.scored_S.new_zeros(1)])
        return PairScores(
            chosen_sum_B=sums_S1[batch.chosen_B],
            rejected_sum_B=sums_S1[batch.rejected_B],
            chosen_tokens_B=scored_S1[batch.chosen_B],
            rejected_tokens_B=scored_S1[batch.rejected_B],
        )

    def shared(self, batch: PackedBatch) -> Tensor:
        """What each sequence sums to, (S,) float64, from one pass over the forest."""
        return forest_rewards(self, batch) if self.gives_rewards else forest_sums(self, batch)

    def padded(self, batch: PackedBatch) -> Tensor:
        """The same from padded rows, for decoders that cannot share."""
        return padded_rewards(self, batch) if self.gives_rewards else padded_sums(self, batch)


@contextmanager
def serving(model: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel | PeftModel]:
    """The model ready to generate: plain attention, eval mode; what it was before comes back at the end."""
    inner = causal(model)
    before = inner.config._attn_implementation
    modes = [(module, module.training) for module in model.modules()]
    use_attention(inner, plain_attention(inner))
    model.eval()
    try:
        yield model
    finally:
        use_attention(inner, before)
        for module, training in modes:
            module.training = training


def plain_attention(model: PreTrainedModel) -> str:
    """The attention to use where no forest is: the one the model came with, if it keeps to the architecture.

    Only eager attention honours a soft cap on attention logits.
    """
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "eager"
    own = str(model.config._attn_implementation)
    if own != attention.NAME:
        return own
    return "sdpa" if model._supports_sdpa else "eager"


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Choose the attention that the next forward takes; checkpointed layers need it unchanged until backward."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config._attn_implementation = name


def require_positions(policy: Policy, pairs: Sequence[EncodedPair]) -> None:
    """Raise DataError where a pair is longer than the model has positions for."""
    positions = getattr(causal(policy.model).config.get_text_config(), "max_position_embeddings", None)
    lengths_N = side_lengths(pairs).max(axis=1)
    if positions is not None and len(too_long := np.flatnonzero(lengths_N > positions)):
        first = int(too_long[0])
        raise DataError(
            f"row {pairs[first].row} has {lengths_N[first]} tokens and the model has {positions} positions; "
            f"set `max_tokens` to {positions} or less, which refuses such rows by name."
        )


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a decoder."""

    weight_Vd: Tensor
    bias_V: Tensor | None
    form: LogitForm


def causal(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model, adapter layers inside it included, without PEFT's wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def forest_sums(policy: Policy, batch: PackedBatch) -> Tensor:
    """Summed log-probability of each sequence's answer, (S,) float64, from one pass over the forest."""
    model = causal(policy.model)
    predicting_Nd = forest_states(model, batch).index_select(0, batch.predict_N)
    head = output_head(model)
    log_probs_N = token_log_probs(predicting_Nd, head.weight_Vd, head.bias_V, batch.target_N, head.form, policy.chunk)
    return _sum_by_sequence(log_probs_N.index_select(0, batch.entry_E), batch.scored_S)


def forest_rewards(policy: Policy, batch: PackedBatch) -> Tensor:
    """The reward of each sequence times its scored tokens, (S,) float64: its mean is the reward."""
    model = causal(policy.model)
    ending_Sd = forest_states(model, batch).index_select(0, batch.last_S)
    return rewards_of(model, ending_Sd) * batch.scored_S


def padded_rewards(policy: Policy, batch: PackedBatch) -> Tensor:
    """The same from padded rows, read where each ends."""
    model = causal(policy.model)
    tokens_SL, mask_SL = padded_rows(policy, batch)
    hidden_SLd = model.base_model(input_ids=tokens_SL, attention_mask=mask_SL, use_cache=False).last_hidden_state
    ending_Sd = hidden_SLd[torch.arange(len(tokens_SL), device=policy.device), mask_SL.sum(1) - 1]
    return rewards_of(model, ending_Sd) * batch.scored_S


def rewards_of(model: PreTrainedModel, hidden_Sd: Tensor) -> Tensor:
    """The reward head's value of each hidden state, (S,), computed in fp32 and told in float64."""
    head: Any = model.score
    rewards_S1: Tensor = head(hidden_Sd.float())
    return rewards_S1[:, 0].double()


def gives_rewards(model: PreTrainedModel) -> bool:
    """Whether the model is a sequence classifier of one label; raises ModelError for any other classifier."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return False
    if model.config.num_labels != 1 or not hasattr(model, "score"):
        raise ModelError(
            f"{type(model).__name__} has {model.config.num_labels} labels; a reward model has one `score`."
        )
    return True


def forest_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The last hidden state of each token of the layout, (T, d), from one pass over the forest."""
    use_attention(model, attention.NAME)
    output = model.base_model(
        input_ids=batch.tokens_T[None],
        position_ids=batch.positions_T[None],
        use_cache=False,
        forest=batch.forest,
    )
    hidden_Td: Tensor = output.last_hidden_state[0]
    return hidden_Td


def padded_rows(policy: Policy, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Tokens and mask of the sequences, each (S, L), padded on the right; the model is set to read them."""
    rows = [torch.from_numpy(s.tokens.astype(np.int64)) for s in batch.sequences]
    use_attention(causal(policy.model), policy.plain_attention)
    tokens_SL = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask_SL = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return tokens_SL.to(policy.device), mask_SL.to(policy.device)


def padded_sums(policy: Policy, batch: PackedBatch) -> Tensor:
    """The same sums from padded rows and the model's own logits, for decoders that cannot share."""
    tokens_SL, mask_SL = padded_rows(policy, batch)
    logits_SLV = causal(policy.model)(input_ids=tokens_SL, attention_mask=mask_SL, use_cache=False).logits
    parts = []
    for logits_LV, row_L, s in zip(logits_SLV, tokens_SL, batch.sequences):
        scored = torch.log_softmax(logits_LV[s.starts - 1 : len(s.tokens) - 1].float(), dim=-1)
        target = row_L[s.starts : len(s.tokens), None]
        parts.append(scored.gather(1, target)[:, 0])
    return _sum_by_sequence(torch.cat(parts), batch.scored_S)


def _sum_by_sequence(log_probs_E: Tensor, scored_S: Tensor) -> Tensor:
    # In float64, so that a sum over a thousand tokens keeps all the digits that its terms have.
    return torch.segment_reduce(log_probs_E.double(), "sum", lengths=scored_S)


def output_head(model: PreTrainedModel) -> Head:
    """The output layer's weight and what the decoder does to its logits.

    Raises ForestUnsupportedError where the output layer is not one plain matrix.
    """
    layer: Any = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        raise attention.ForestUnsupportedError(f"its output layer is a {type(layer).__name__}, not a plain matrix")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if divisor := getattr(config, "logits_scaling", None):
        scale /= float(divisor)
    return Head(layer.weight, layer.bias, LogitForm(scale, getattr(config, "final_logit_softcapping", None)))


def why_padded(policy: Policy) -> str | None:
    """Ask the model itself: do forest and padded rows give the same numbers on a few tokens?

    None if they do, else the reason in words.
    """
    batch = probe_batch(causal(policy.model).config.get_text_config().vocab_size).to(policy.device)
    training = policy.model.training
    policy.model.eval()
    try:
        with torch.no_grad():
            shared_S, padded_S = policy.shared(batch), policy.padded(batch)
            policy.model.train()  # some attention can be shared only as long as nothing is dropped
            policy.shared(batch)
        if policy.device.type == "cuda":
            policy.run_by_run_because = "; ".join(sorted(batch.forest.reasons)) or None
    except attention.ForestUnsupportedError as error:
        return str(error)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        return f"{type(causal(policy.model)).__name__} does not run on a forest ({error})"
    finally:
        policy.model.train(training)
        policy.release()
    if not bool(torch.isfinite(padded_S).all()):
        raise ModelError("the model gives scores that are not finite; its weights are broken.")
    half = next(policy.model.parameters()).dtype != torch.float32
    worst = float(((shared_S - padded_S).abs() / batch.scored_S).max())
    if worst > (0.1 if half else 1e-4):
        name = type(causal(policy.model)).__name__
        return f"{name} gives other numbers on a forest (off by {worst:.1e})"
    return None


def probe_batch(vocabulary: int) -> PackedBatch:
    """Two small pairs with a shared prompt, for asking a model how it behaves."""
    draw = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=draw).tolist()

    prompt, common, other = tokens(9), tokens(3), tokens(5)
    pairs = [
        EncodedPair(0, "a", "0", side(prompt + common + tokens(4), 9), side(prompt + common + tokens(7), 9)),
        EncodedPair(1, "b", "1", side(other + tokens(6), 5), side(other + tokens(2), 5)),
    ]
    return pack(pairs)
