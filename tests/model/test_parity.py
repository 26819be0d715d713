"""Forest, packed and padded runs of the same pairs give the same loss and the same gradients."""

import pytest
import torch
import torch.nn.functional as F
from architectures import CONFIGS, VOCABULARY, tiny
from torch import Tensor
from transformers import PreTrainedModel

from evenhand.model.encode import EncodedPair, side
from evenhand.model.forward import Policy
from evenhand.model.pack import PackedBatch, pack

BETA, MARGIN = 2.0, 0.5


def some_pairs() -> list[EncodedPair]:
    """Shared prompts, answers with a common beginning, ranked answers, an edit, and lone pairs."""
    draw = torch.Generator().manual_seed(7)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (n,), generator=draw).tolist()

    system, prompt = tokens(5), tokens(14)
    draft = tokens(12)
    ranked = [tokens(n) for n in (6, 11, 1)]
    first = [(system + prompt, a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]]
    others = [
        (system + tokens(8), draft, draft[:7] + tokens(3)),
        (tokens(20), tokens(2), tokens(17)),
        (tokens(1), tokens(5), tokens(5)),
    ]
    return [
        EncodedPair(i, str(i), str(i), side(p + c, len(p)), side(p + r, len(p)))
        for i, (p, c, r) in enumerate(first + others)
    ]


def loss_by_rows(model: PreTrainedModel, pairs: list[EncodedPair]) -> Tensor:
    """SimPO written out on transformers' own padded forward: nothing of evenhand's engine is used."""
    rows = [torch.from_numpy(s.tokens).long() for pair in pairs for s in (pair.chosen, pair.rejected)]
    starts = [s.starts for pair in pairs for s in (pair.chosen, pair.rejected)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    log_probs = F.log_softmax(logits[:, :-1].float(), -1).gather(2, ids[:, 1:, None])[..., 0]
    means = torch.stack([log_probs[i, s - 1 : len(row) - 1].mean() for i, (row, s) in enumerate(zip(rows, starts))])
    return -F.logsigmoid(BETA * (means[0::2] - means[1::2] - MARGIN)).sum() / len(pairs)


def loss_by_forest(policy: Policy, batch: PackedBatch) -> Tensor:
    return -F.logsigmoid(BETA * (policy(batch).mean_gap_B - MARGIN)).mean()


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        error = ((ours[name] - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("share", [True, False], ids=["forest", "packed"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_loss_and_every_gradient_equal_padded_rows(name: str, share: bool) -> None:
    model, pairs = tiny(name), some_pairs()
    wanted = loss_by_rows(model, pairs)
    theirs = gradients(model, wanted)
    policy = Policy(model)
    assert policy.padded_because is None
    batch = pack(pairs, share=share)
    loss = loss_by_forest(policy, batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert_same_gradients(gradients(model, loss), theirs)
