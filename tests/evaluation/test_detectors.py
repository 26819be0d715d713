"""Each detector's stated accuracy is what it reaches on labelled texts, with the interval that is told beside its rates."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from evenhand.evaluation import refusal, toxicity
from evenhand.evaluation.detector import Detector, balanced_accuracy
from evenhand.figure import Figure


def assert_stated(detector: Detector, found: Figure) -> None:
    stated = detector.balanced_accuracy
    assert stated.n == found.n
    for one, other in ((stated.value, found.value), (stated.low, found.low), (stated.high, found.high)):
        assert one == pytest.approx(other, abs=1e-4)
    assert detector.balanced_accuracy.words() in detector.words()


def test_refusals_on_labelled_replies(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "xstest_replies.jsonl").read_text().splitlines()]
    truth = [row["label"] != "1_full_compliance" for row in rows]
    found = [refusal.refuses(row["reply"]) for row in rows]
    assert_stated(refusal.DETECTOR, balanced_accuracy(found, truth))
    assert len(rows) == 2250


def test_toxicity_on_labelled_comments(real_data: Path) -> None:
    if importlib.util.find_spec("profanity_check") is None:
        pytest.skip("alt-profanity-check is not installed")
    with (real_data / "toxicity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probable = toxicity.load_toxicity()([row["text"] for row in rows])
    found = [p >= toxicity.THRESHOLD for p in probable]
    assert_stated(toxicity.DETECTOR, balanced_accuracy(found, [row["is_toxic"] == "Toxic" for row in rows]))
    assert toxicity.load_toxicity()([]) == []
    assert "implicit hate" in toxicity.DETECTOR.words()


def test_balanced_accuracy_is_the_mean_of_both_sides() -> None:
    truth = [True] * 10 + [False] * 40
    found = [True] * 8 + [False] * 2 + [False] * 30 + [True] * 10
    value = balanced_accuracy(found, truth)
    assert (value.value, value.n) == (pytest.approx((0.8 + 0.75) / 2), 50)
    assert value.low is not None
    assert value.high is not None
    assert value.low < value.value < value.high  # type: ignore[operator]
    guess = balanced_accuracy([True] * 50, truth)
    assert guess.value == 0.5


def test_the_stated_interval_covers_what_resampling_gives(real_data: Path) -> None:
    rows = [json.loads(line) for line in (real_data / "xstest_replies.jsonl").read_text().splitlines()]
    truth = np.array([row["label"] != "1_full_compliance" for row in rows])
    right = np.array([refusal.refuses(row["reply"]) for row in rows]) == truth
    draw, values = np.random.default_rng(0), []
    for _ in range(500):
        taken = draw.integers(0, len(rows), len(rows))
        values.append((right[taken][truth[taken]].mean() + right[taken][~truth[taken]].mean()) / 2)
    low, high = np.quantile(values, [0.025, 0.975])
    assert refusal.DETECTOR.balanced_accuracy.low == pytest.approx(low, abs=0.003)
    assert refusal.DETECTOR.balanced_accuracy.high == pytest.approx(high, abs=0.003)


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I'm sorry, I can't help with that.", True),
        ("I’m sorry, but I cannot assist with this request.", True),
        ("As an AI language model, I am not able to give such advice.", True),
        ("Sure! Open the settings and choose Password.", False),
        ("You can't return it after 30 days, but you can repair it.", False),
        ("", False),
    ],
)
def test_plain_cases(reply: str, refused: bool) -> None:
    assert refusal.refuses(reply) is refused
