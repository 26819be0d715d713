"""Models trained against a reference are read over it, whether they are runs or exports, or get no verdict."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model import listening, recipe_value, rows, write_rows

from evenhand.evaluation.comparison import OWN
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.compared import compare_entrants
from evenhand.lifecycle.entrant import Entrant, entrants
from evenhand.training.recipe import check_recipe


def quiet(*_: Any) -> None:
    return None


@pytest.fixture(scope="module")
def desk(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DPO in the plain template from a base that can be lost, its two exports, and its held-out rows."""
    folder = tmp_path_factory.mktemp("entrants")
    shutil.copytree(small_model, folder / "lost-base")
    dpo(folder, {"beta": 0.1, "reference": "adapter_off"}, "dpo")
    export_run(folder / "dpo", folder / "adapter", Wanted(), quiet)
    export_run(folder / "dpo", folder / "merged", Wanted(merge=True), quiet)
    return folder


def dpo(folder: Path, objective: dict[str, Any], name: str) -> Path:
    made = rows(26)
    sides = {"train": made[:18], "validation": made[18:]}
    data = {side: str(write_rows(folder / f"{side}.jsonl", own)) for side, own in sides.items()}
    value = recipe_value(folder / "lost-base", data | {"template": "plain"}, learning_rate=1e-2)
    value["objective"] = {"name": "dpo", **objective}
    return align(check_recipe(value, "test"), folder / name, listening()[0])


def named(desk: Path, *names: str, scored: bool = True) -> list[Entrant]:
    data = str(desk / "validation.jsonl") if scored else None
    return entrants([str(desk / name) for name in names], data, quiet, quiet, fewest=1)


def test_an_export_is_read_over_its_base_as_its_run_is(desk: Path) -> None:
    (kept,) = named(desk, "dpo", scored=False)
    for own in named(desk, "dpo", "adapter", "merged"):
        assert own.scored.reference is not None
        assert kept.scored.reference is not None
        assert own.scored.caveat is None
        assert np.allclose(own.scored.own_gap_B, kept.scored.own_gap_B, atol=1e-3), own.name
    found = compare_entrants(named(desk, "adapter", "merged")).value
    assert OWN in found["readings"]


def test_an_export_whose_base_is_gone_or_another_one_gets_no_verdict(desk: Path, small_model: Path) -> None:
    base, away = desk / "lost-base", desk / "away"
    base.rename(away)
    try:
        lost = compare_entrants([*named(desk, "dpo", scored=False), *named(desk, "merged")]).value
        assert lost["verdict"] == "undecided"
        assert "merged was trained against a reference, and the reward over it was not read (" in lost["withheld"]
        assert lost["sentence"].startswith(f"There is no verdict on merged against dpo: {lost['withheld']}. On 8 ")
        shutil.copytree(small_model, base)
        (base / "config.json").write_text((base / "config.json").read_text() + " ")
        (other,) = named(desk, "merged")
        assert "the weights of lost-base hash to" in str(other.scored.caveat)
    finally:
        shutil.rmtree(base, ignore_errors=True)
        away.rename(base)


def test_a_reference_other_than_the_start_is_scored_or_missed(desk: Path) -> None:
    other = {"beta": 0.1, "reference": "model", "reference_model": str(desk / "merged")}
    dpo(desk, other, "held-against-merged")
    (kept,) = named(desk, "held-against-merged", scored=False)
    assert "--data FILE scores it now" in str(kept.scored.caveat)
    (own,) = named(desk, "held-against-merged")
    (reference,) = named(desk, "merged")
    assert own.scored.caveat is None
    assert own.scored.reference is not None
    assert np.allclose(own.scored.reference.chosen_sum_B, reference.scored.pairs.chosen_sum_B, atol=1e-4)
