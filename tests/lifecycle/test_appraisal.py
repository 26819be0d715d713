"""Scores and evaluations of a model on disk: in the run's own form, with every row accounted for."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_model import listening, recipe_value, rows, small_llama, small_tokenizer, write_rows

from evenhand.errors import DataError, UserError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.appraisal import Asked, appraise
from evenhand.lifecycle.appraisal import write_rows as write_scores
from evenhand.lifecycle.examination import Wanted, examine
from evenhand.training.recipe import check_recipe


def quiet(*_: Any) -> None:
    return None


@pytest.fixture(scope="module")
def plain_run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with the plain template and at most 40 tokens, and its held-out rows."""
    folder = tmp_path_factory.mktemp("plain")
    made = rows(24, seed=3)
    held_out = write_rows(folder / "held_out.jsonl", made[16:])
    data = {"train": str(write_rows(folder / "train.jsonl", made[:16])), "validation": str(held_out)}
    value = recipe_value(small_model, data | {"template": "plain", "max_tokens": 70})
    return align(check_recipe(value, "r"), folder / "run", listening()[0]), held_out


def test_the_scores_of_a_run_are_in_its_own_form(plain_run: tuple[Path, Path]) -> None:
    run, held_out = plain_run
    found = appraise(Asked(str(run), str(held_out)), quiet, quiet)
    assert (found.held_out.form.template, found.held_out.form.max_tokens) == ("plain", 70)
    done = json.loads((run / "done.json").read_text())["step"]
    kept = pq.read_table(run / "rows" / f"step-{done:06d}.parquet").to_pylist()
    for row, chosen, rejected in zip(kept, found.scored.chosen_sum_B, found.scored.rejected_sum_B):
        assert chosen == pytest.approx(row["chosen_sum"], rel=1e-5)
        assert rejected == pytest.approx(row["rejected_sum"], rel=1e-5)
    other = appraise(Asked(str(run), str(held_out), template="chat", max_tokens=200), quiet, quiet)
    assert (other.held_out.form.template, other.held_out.form.max_tokens) == ("chat", 200)
    assert abs(other.scored.chosen_sum_B - found.scored.chosen_sum_B).max() > 0.1


def test_an_evaluation_of_a_run_is_the_one_in_its_report(plain_run: tuple[Path, Path]) -> None:
    run, held_out = plain_run
    report = json.loads((run / "report.json").read_text())
    found = examine(Asked(str(run), str(held_out)), Wanted(), quiet, quiet).json()
    for key in ("pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum", "slices"):
        assert found[key] == report["after"][key], key
    assert found["generation"] is None
    assert found["data"] == {"rows_in": 8, "rows_used": 8, "refused": {}}


def test_scores_are_those_of_plain_rows_in_float64(tmp_path: Path, small_model: Path) -> None:
    made = rows(6, seed=8)
    found = appraise(
        Asked(str(small_model), str(write_rows(tmp_path / "d.jsonl", made)), dtype="float32"), quiet, quiet
    )
    model, tokenizer = small_llama().double(), small_tokenizer()
    write_scores(tmp_path / "rows.parquet", found)
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["row"] for row in table] == list(range(6))
    for row, source in zip(table, made):
        head = f"<|im_start|>user\n{source['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        starts = len(tokenizer.encode(head, add_special_tokens=False))
        for side in ("chosen", "rejected"):
            ids = torch.tensor(tokenizer.encode(head + source[side] + "<|im_end|>", add_special_tokens=False))
            with torch.no_grad():
                log_probs = torch.log_softmax(model(input_ids=ids[None]).logits[0], dim=-1)
            total = float(log_probs[starts - 1 : -1].gather(1, ids[starts:, None]).sum())
            assert row[f"{side}_tokens"] == len(ids) - starts
            assert row[f"{side}_sum"] == pytest.approx(total, rel=1e-5)
            assert row[f"{side}_mean"] == pytest.approx(total / (len(ids) - starts), rel=1e-5)


BAD: list[dict[str, Any]] = [
    {"prompt": "ladder " * 300, "chosen": "a", "rejected": "b"},  # too long
    {"prompt": "parcel", "chosen": "", "rejected": "b"},
    {"prompt": "parcel", "chosen": "same", "rejected": "same"},
    {"prompt": "parcel", "chosen": 7, "rejected": "b"},
]


def test_every_row_is_used_or_refused_by_name(tmp_path: Path, small_model: Path) -> None:
    made = [*rows(4), *BAD, *rows(3, seed=9)]
    data = write_rows(tmp_path / "d.jsonl", made)
    found = appraise(Asked(str(small_model), str(data), max_tokens=256), quiet, quiet)
    refused = write_scores(tmp_path / "out" / "rows.parquet", found)
    assert refused == tmp_path / "out" / "rows.refused.jsonl"
    lines = [json.loads(line) for line in refused.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == [4, 5, 6, 7]
    assert next(line for line in lines if line["row"] == 4)["reason"] == "too_long"
    assert (found.rows_in, found.rows_used) == (11, 7)
    assert sum(found.refused.values()) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rows.parquet", "rows.refused.jsonl"]


@pytest.mark.parametrize("long", [(0,), (0, 1), (0, 1, 2, 3)])
def test_ranked_rows_add_up_too(tmp_path: Path, small_model: Path, long: tuple[int, ...]) -> None:
    """A row of four ranked answers, of which some are too long, is used if one of its pairs is."""
    answers = [f"{word} {'anchor ' * 200 if i in long else 'basket'}" for i, word in enumerate("abcd")]
    ranked = {"prompt": "kettle", "responses": answers, "scores": [4, 3, 2, 1]}
    whole = {"prompt": "garden", "responses": ["velvet", "copper", "orange"], "scores": [3, 2, 1]}
    data = write_rows(tmp_path / "d.jsonl", [ranked, whole])
    said: list[str] = []
    found = appraise(Asked(str(small_model), str(data), max_tokens=128), said.append, quiet)
    short = 4 - len(long)
    left = short * (short - 1) // 2
    assert len(found.scored) == left + 3
    assert (found.rows_in, found.rows_used) == (2, 2 if left else 1)
    assert found.refused == ({} if left else {"too_long": 1})
    sentence = f"{6 - left} pairs of ranked rows do not fit; their rows are used without them"
    assert (sentence in said) == bool(left)


def test_what_cannot_be_asked_is_one_sentence(tmp_path: Path, small_model: Path) -> None:
    data = str(write_rows(tmp_path / "d.jsonl", rows(2)))
    with pytest.raises(UserError, match="--dtype 'float8' is none of auto, float32, bfloat16"):
        appraise(Asked(str(small_model), data, dtype="float8"), quiet, quiet)
    with pytest.raises(UserError, match="--template 'chatml' is neither chat nor plain"):
        appraise(Asked(str(small_model), data, template="chatml"), quiet, quiet)
    with pytest.raises(DataError, match="none of 2 pairs can be used"):
        appraise(Asked(str(small_model), data, max_tokens=5), quiet, quiet)
