"""What makes two starts the same run: every setting by its own name, and what may be allowed."""

from pathlib import Path

import pytest
from small_training import settings

from evenhand.errors import RecipeError
from evenhand.training.identity import FREE, code_hash, refuse_other_run, refuse_unknown, settings_by_name

HERE = Path("runs/a")


def test_every_setting_has_a_name_and_nested_ones_too() -> None:
    named = settings_by_name("model", {"adapter": {"rank": 4, "targets": None}, "dtype": "auto"})
    assert named == {"model.adapter.rank": "4", "model.adapter.targets": "null", "model.dtype": '"auto"'}
    own = settings_by_name("training", settings().model_dump(mode="json"))
    assert own["training.learning_rate"] == "0.001"
    assert not FREE & own.keys()
    assert {f"training.{name}" for name in settings().model_dump()} == own.keys() | FREE


def test_a_difference_is_refused_with_both_values_and_a_cure() -> None:
    before, now = {"a.b": "1", "data": "x" * 64}, {"a.b": "2", "data": "y" * 64}
    with pytest.raises(RecipeError) as refused:
        refuse_other_run(HERE, before, now)
    assert str(refused.value) == (
        "runs/a holds a run with another a.b (1, now 2), data; choose another --out, allow it with --allow-change a.b "
        "--allow-change data, or remove it to start afresh."
    )


def test_allowed_names_and_those_below_them_pass() -> None:
    before, now = {"a.b": "1", "a.c.d": "1", "e": "1"}, {"a.b": "2", "a.c.d": "2", "e": "1"}
    assert refuse_other_run(HERE, before, now, ("a",)) == ["a.b", "a.c.d"]
    assert refuse_other_run(HERE, before, before) == []
    with pytest.raises(RecipeError, match=r"another a.c.d \(1, now 2\); choose"):
        refuse_other_run(HERE, before, now, ("a.b",))


def test_other_weights_can_never_be_allowed() -> None:
    with pytest.raises(RecipeError, match=r"another weights .*; choose another --out, or remove it"):
        refuse_other_run(HERE, {"weights": "1"}, {"weights": "2"}, ("weights",))


def test_a_name_that_a_run_does_not_have_is_a_mistake() -> None:
    refuse_unknown(("training", "threads"), ("training.seed", "threads"))
    with pytest.raises(RecipeError, match=r"--allow-change trainig: a run has no such name; it has training.seed"):
        refuse_unknown(("trainig",), ("training.seed",))


def test_the_code_has_one_hash() -> None:
    assert len(code_hash()) == 64
    assert code_hash() == code_hash()
