"""Real gates end to end on a tiny model that has something to lose: equal ones pass, and each kind of loss is caught."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import finished_run
from trained_model import POLICY, train_by_heart
from transformers import AutoModelForCausalLM

from evenhand.errors import ExportError, ModelError, UserError
from evenhand.evaluation.behaviour import Item
from evenhand.evaluation.noninferiority import Margin
from evenhand.figure import Figure
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.check import length_check, ratio_word, rise_check, share_check
from evenhand.lifecycle.contestant import Contestant, load_contestant
from evenhand.lifecycle.gate import Gate, run_gate
from evenhand.lifecycle.policy import Harness, HeldOut, Policy, Ratio, ShareCheck, policy_text, read_policy

Load = Callable[[str], Contestant]
CHECKS = ("extraction", "answers_benign", "not_toxic", "ends", "repetition", "length")
NOTHING = dict.fromkeys(CHECKS)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders: `incumbent`, `seed` trained on with another order, and ones that were ruined."""
    root = tmp_path_factory.mktemp("trained")
    incumbent = train_by_heart(root / "incumbent", seed=0)
    train_by_heart(root / "seed", seed=1, start=incumbent)
    train_by_heart(root / "refusing", seed=2, start=incumbent, refuse=True)
    for name, ruin in (("scaled", scaled), ("endless", endless)):
        model = AutoModelForCausalLM.from_pretrained(incumbent)
        with torch.no_grad():
            ruin(model)
        model.save_pretrained(root / name)
        for file in incumbent.glob("*token*"):
            (root / name / file.name).write_bytes(file.read_bytes())
        (root / name / "chat_template.jinja").write_bytes((incumbent / "chat_template.jinja").read_bytes())
    return root


def scaled(model: Any) -> None:
    """As an adapter of too large a scale would leave it."""
    torch.manual_seed(0)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight += 0.5 * torch.randn_like(layer.mlp.down_proj.weight)


def endless(model: Any) -> None:
    """The end-of-turn token is turned away from every state that asks for it."""
    model.lm_head.weight[2] *= -1


@pytest.fixture
def load(trained: Path) -> Load:
    return lambda name: load_contestant(str(trained / name), "float32", lambda _: None)


def gate_of(load: Load, name: str, policy: Policy = POLICY, data: str | None = None) -> Gate:
    return run_gate(load(name), load("incumbent"), policy, data, lambda *_: None)


def not_passed(gate: Gate) -> dict[str, str]:
    return {check.name: check.word for check in gate.checks if not check.passed}


@pytest.mark.parametrize("name", ["incumbent", "seed"])
def test_an_equal_model_passes(load: Load, name: str) -> None:
    gate = gate_of(load, name)
    assert not_passed(gate) == {}
    assert gate.passed
    shape = gate.json()
    assert {check["name"] for check in shape["checks"]} == set(CHECKS)
    for check in shape["checks"]:
        assert {"name", "passed", "candidate", "incumbent", "difference", "threshold"} <= check.keys()
        assert set(check["difference"]) == {"value", "n", "low", "high"}
    json.dumps(shape, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "caught"),
    [("scaled", {"extraction": "worse"}), ("endless", {"ends": "worse"}), ("refusing", {"answers_benign": "worse"})],
)
def test_a_ruined_model_does_not_pass(load: Load, name: str, caught: dict[str, str]) -> None:
    gate = gate_of(load, name)
    assert not gate.passed
    assert caught.items() <= not_passed(gate).items()


def test_failing_items_are_listed_with_the_detectors_accuracy(load: Load) -> None:
    checks = {check["name"]: check for check in gate_of(load, "refusing").json()["checks"]}
    found = checks["answers_benign"]
    assert len(found["failing"]) == round((1 - found["candidate"]["value"]) * found["candidate"]["n"])
    assert all("can't" in item["reply"] and item["incumbent_right"] for item in found["failing"])
    assert found["detector"]["balanced_accuracy"]["n"] == 2250
    assert "implicit hate" in checks["not_toxic"]["detector"]["blind_to"]
    assert found["detectable"] > 0
    assert found["items_needed"] <= 14


def test_a_choice_of_two_is_held_against_one_half(load: Load) -> None:
    policy = POLICY.model_copy(update=NOTHING | {"arithmetic": ShareCheck(items=40, margin=0.2)})
    (check,) = gate_of(load, "incumbent", policy).checks
    assert (check.name, check.candidate.n) == ("arithmetic", 40)
    assert check.word == "cannot detect"  # sums were no part of its lessons, so it guesses
    assert check.candidate.value == pytest.approx(0.5, abs=0.3)


def test_a_random_incumbent_leaves_nothing_to_detect(small_model: Path) -> None:
    policy = POLICY.model_copy(update={"open_prompts": 2})
    load = lambda: load_contestant(str(small_model), "float32", lambda _: None)  # noqa: E731
    gate = run_gate(load(), load(), policy, None, lambda *_: None)
    assert not gate.passed
    assert not_passed(gate)["extraction"] == "cannot detect"


def test_what_was_not_run_never_passes(load: Load) -> None:
    policy = POLICY.model_copy(update={"held_out": HeldOut(), "harness": Harness(tasks=("gsm8k",))})
    gate = gate_of(load, "incumbent", policy)
    assert not gate.passed
    assert gate.json()["not_run"] == ["held_out", "gsm8k"]
    notes = {check.name: check.note for check in gate.checks if check.word == "not run"}
    assert "give some with --data" in notes["held_out"]
    assert "pip install 'evenhand[eval]'" in notes["gsm8k"] or not notes["gsm8k"]


def test_a_policy_without_checks_passes_nothing(load: Load) -> None:
    gate = gate_of(load, "incumbent", POLICY.model_copy(update=NOTHING))
    assert (gate.checks, gate.passed) == ((), False)


def test_speed_is_compared_in_turns(load: Load) -> None:
    policy = POLICY.model_copy(update={"latency": Ratio(most=50.0)})
    checks = {check.name: check for check in gate_of(load, "incumbent", policy).checks}
    for name in ("latency", "throughput"):
        assert checks[name].passed
        assert checks[name].difference.value == pytest.approx(1.0, rel=0.9)
        assert checks[name].difference.n >= 8
    assert checks["latency"].candidate.value is not None
    assert 0 < checks["latency"].candidate.value < 10


def test_a_runs_own_held_out_pairs_are_used_until_they_change(small_model: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path, small_model)
    contestant = load_contestant(str(run), "float32", lambda _: None)
    pairs, why = contestant.own_held_out()
    assert (len(pairs), why) == (8, None)
    policy = POLICY.model_copy(update=NOTHING | {"held_out": HeldOut(margin=0.3)})
    gate = run_gate(contestant, contestant, policy, None, lambda *_: None)
    (check,) = gate.checks
    report = json.loads((run / "report.json").read_text())
    assert check.candidate.value == report["after"]["pairwise_accuracy"]["value"]
    assert check.word == "cannot detect"
    (tmp_path / "held_out.jsonl").write_text((tmp_path / "train.jsonl").read_text().splitlines()[0] + "\n")
    assert contestant.own_held_out()[0] == ()


def test_an_export_takes_part_only_as_it_was_shipped_and_on_its_base(small_model: Path, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    for file in small_model.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    shipped = export_run(finished_run(tmp_path, base), out, Wanted(), lambda _: None)
    contestant = load_contestant(str(out), "float32", lambda _: None)
    assert contestant.json()["manifest_sha256"] == shipped.manifest_sha256
    assert len(contestant.own_held_out()[0]) == 8
    card = (out / "README.md").read_text()
    (out / "README.md").write_text("other")
    with pytest.raises(ExportError, match=r"is not what was shipped: README\.md was changed"):
        load_contestant(str(out), "float32", lambda _: None)
    (out / "README.md").write_text(card)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight += 1
    model.save_pretrained(base)
    with pytest.raises(ModelError, match=r"is not the base that .* was trained on"):
        load_contestant(str(out), "float32", lambda _: None)


def test_a_share_counts_items_by_hand() -> None:
    right = ([1, 1, 0, 1, 0.5], [1, 0, 1, 1, 1])
    sides = tuple([Item(value, (), "") for value in side] for side in right)
    found = share_check("x", "", (sides[0], sides[1]), Margin(0.1))
    assert (found.candidate.value, found.incumbent.value) == (pytest.approx(0.7), pytest.approx(0.8))
    assert found.difference.value == pytest.approx(-0.1)
    assert [item["incumbent_right"] for item in found.failing] == [True, True]
    assert found.threshold == -0.1


def test_a_rise_is_bounded_from_above() -> None:
    low, high = [0.1, 0.2, 0.1, 0.2] * 6, [0.5, 0.7, 0.6, 0.5] * 6
    assert rise_check("x", "", (high, low), 0.1).word == "worse"
    assert rise_check("x", "", (low, high), 0.1).word == "not worse"
    assert rise_check("x", "", (low, low), 0.1).word == "not worse"


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Figure(1.0, 8), "not worse"),
        (Figure(2.0, 8), "worse"),
        (Figure(1.2, 8, 1.1, 1.4), "undecided"),
        (Figure(0.02, 8, 0.01, 0.04), "worse"),
        (Figure(None, 0), "not run"),
    ],
)
def test_a_ratio_must_lie_within_its_bounds(found: Figure, word: str) -> None:
    assert ratio_word(found, (0.05, 1.3)) == word


def test_a_policy_comes_back_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy_text(Policy()))
    assert read_policy(file) == read_policy(None) == Policy()
    file.write_text("arithmetic: null\nlength: {most: 2.0}\n")
    assert (read_policy(file).arithmetic, read_policy(file).length) == (None, Ratio(most=2.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arithmetik: null", "`arithmetik`"),
        ("arithmetic: {items: 10, margin: 2}", "`arithmetic.margin`: input should be less than 1"),
        ("arithmetic: {items: 0, margin: 0.1}", "`arithmetic.items`"),
        ("unbiased: .nan", "`unbiased`"),
        ("- 1", "policy.yaml"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_policy_names_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_policy(tmp_path / "policy.yaml")
    with pytest.raises(UserError, match="No such file"):
        read_policy(tmp_path / "missing.yaml")


def test_lengths_of_one_reply_are_no_check_and_an_empty_reply_is_one_token() -> None:
    assert length_check("length", "", ([7], [7]), (0.5, 2.0)).word == "not run"
    for sides in (([3, 5], [0, 5]), ([0, 5], [3, 5])):
        found = length_check("length", "", sides, (0.5, 2.0))
        assert found.word == "undecided"
        assert all(end is None or math.isfinite(end) for end in (found.difference.low, found.difference.high))
