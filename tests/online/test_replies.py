"""Log-probabilities and values of every token of a reply, against one plain forward for each reply."""

import numpy as np
import pytest
import torch
from architectures import tiny

from evenhand.model.encode import EncodedSide, side
from evenhand.model.forward import Policy
from evenhand.online.replies import read_tokens, starts_of


def some_replies() -> list[EncodedSide]:
    """Two prompts with three replies each, one said twice and one the beginning of another, out of order."""
    draw = np.random.default_rng(0)
    prompts = [draw.integers(3, 190, n).tolist() for n in (7, 4)]
    bodies = [draw.integers(3, 190, n).tolist() for n in (5, 2, 6)]
    bodies[1] = bodies[0][:2]
    made = [side(prompt + body, len(prompt)) for body in bodies for prompt in prompts]
    return [*made[::-1], made[0]]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("padded", [False, True])
def test_every_token_as_a_plain_forward_has_it(name: str, padded: bool) -> None:
    model, replies = tiny(name).eval(), some_replies()
    policy, head = Policy(model), torch.nn.Linear(model.config.hidden_size, 1)
    if padded:
        policy.padded_because = "this test says so"
    with torch.no_grad():
        told = read_tokens(policy, replies, head)
        policy.release()
        starts = starts_of(replies)
        for reply, start, end in zip(replies, starts, starts[1:]):
            tokens = torch.from_numpy(reply.tokens.astype(np.int64))
            out = model(input_ids=tokens[None], output_hidden_states=True)
            predicting = slice(reply.starts - 1, len(tokens) - 1)
            wanted = out.logits[0, predicting].double().log_softmax(-1).gather(1, tokens[reply.starts :, None])[:, 0]
            assert told.log_prob_E[start:end].tolist() == pytest.approx(wanted.tolist(), abs=2e-5)
            values = head(out.hidden_states[-1][0, predicting])[:, 0]
            assert told.value_E[start:end].tolist() == pytest.approx(values.tolist(), abs=2e-5)
    assert len(told.log_prob_E) == starts[-1]
