"""The operations that the benchmarks count, against torch's own count of products and seen keys counted one by one."""

import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from evenhand.model.forward import Policy
from evenhand.model.pack import pack

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from work import SHAPES, drawn, load, useful_flops

LENGTHS = [(30, 6, 9), (25, 4, 7)]


def test_scoring_operations_are_the_products_that_torch_counts_and_four_a_seen_key():
    model, pairs = load("tiny", torch.float32, torch.device("cpu")), drawn(LENGTHS, 512)
    policy = Policy(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy(pack(pairs))
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    seen = sum(sum(range(1, p + 1)) + sum(p + i for n in (c, r) for i in range(1, n + 1)) for p, c, r in LENGTHS)
    hidden, layers = SHAPES["tiny"][:2]
    assert useful_flops(model, pairs, 1) == products + 4 * hidden * layers * seen


def test_training_takes_three_times_the_operations_of_scoring():
    model, pairs = load("tiny", torch.float32, torch.device("cpu")), drawn(LENGTHS, 512)
    assert useful_flops(model, pairs, 3) == 3 * useful_flops(model, pairs, 1)
