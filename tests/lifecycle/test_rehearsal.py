"""A dry run counts what a run would do, and writes nothing."""

import json
from pathlib import Path

import pytest
from small_model import listening, recipe_value, rows, small_tokenizer, write_rows

from evenhand.errors import DataError
from evenhand.lifecycle.rehearsal import rehearse
from evenhand.training.recipe import Recipe, check_recipe


def recipe_for(model: Path, data: Path, share: float | None = None, **training: object) -> Recipe:
    value = recipe_value(model, {"source": str(data), "max_tokens": 100}, **training)
    if share is not None:
        value["data"]["validation"] = share
    return check_recipe(value, "r")


def test_its_counts_are_those_of_an_independent_count(tmp_path: Path, small_model: Path) -> None:
    made = [*rows(20), {"prompt": "parcel " * 60, "chosen": "a", "rejected": "b"}, {"prompt": "", "chosen": "a"}]
    data = write_rows(tmp_path / "data.jsonl", made)
    tell, said = listening()
    found = rehearse(recipe_for(small_model, data, steps=None, epochs=3), tell)
    tokenizer = small_tokenizer()
    tree = separate = 0
    for row in made[:20]:
        texts = [
            f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n{row[side]}<|im_end|>"
            for side in ("chosen", "rejected")
        ]
        one, other = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
        shared = next(i for i, (a, b) in enumerate(zip(one, other)) if a != b)
        tree, separate = tree + len(one) + len(other) - shared, separate + len(one) + len(other)
    assert (found.rows_in, found.rows_used) == (22, 20)
    assert found.refused["too_long"] == 1
    assert sum(found.refused.values()) == 2
    assert (found.train_pairs, found.validation_pairs) == (20, 0)
    assert (found.tokens_per_epoch, found.tokens_as_rows) == (tree, separate)
    assert found.steps == 3 * 4  # 20 pairs, 6 a step
    # Rank 4 on seven matrices of each of two layers: 4 * (inputs + outputs).
    shapes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert found.trained_weights == 2 * sum(4 * (i + o) for i, o in shapes)
    assert found.optimizer_bytes == 16 * found.trained_weights
    assert found.minutes == pytest.approx(tree / 20 * 6 * 12 / found.tokens_per_second / 60)
    assert 0 < found.probe_tokens <= 256
    assert any("read 22 rows" in sentence for sentence in said)


def test_the_example_shows_every_token_and_which_are_scored(tmp_path: Path, small_model: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [{"prompt": "parcel", "chosen": "invoice", "rejected": "kettle harbor"}])
    found = rehearse(recipe_for(small_model, data), listening()[0])
    chosen, rejected = found.example
    head = r"[<|im_start|>][user][\n][parcel][<|im_end|>][\n][<|im_start|>][assistant][\n]"
    assert chosen.replace(" ", "").endswith("[<|im_end|>]*")
    for line, answer in ((chosen, "invoice"), (rejected, "kettle harbor")):
        shown = line.split(":", 1)[1].strip()
        pieces = shown.split("[")[1:]
        text = "".join(piece.rstrip("*").removesuffix("]") for piece in pieces)
        assert text == head.replace("[", "").replace("]", "") + answer + "<|im_end|>"
        scored = "".join(piece.rstrip("*").removesuffix("]") for piece in pieces if piece.endswith("*"))
        assert scored == answer + "<|im_end|>"


def test_nothing_is_written(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rows(tmp_path / "in" / "data.jsonl", rows(20))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    files = {path: path.stat().st_mtime_ns for path in (*small_model.rglob("*"), *(tmp_path / "in").rglob("*"))}
    found = rehearse(recipe_for(small_model, data, share=0.2), listening()[0])
    assert found.train_pairs + found.validation_pairs == 20
    assert found.validation_pairs == 4
    assert list((tmp_path / "here").iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in (*small_model.rglob("*"), *(tmp_path / "in").rglob("*"))} == files
    assert json.loads(json.dumps(found.json(), allow_nan=False))["steps"] == 5
    assert f"trained weights: {found.trained_weights:,}" in found.words()


def test_it_refuses_what_a_run_would_refuse(tmp_path: Path, small_model: Path) -> None:
    too_long = write_rows(tmp_path / "data.jsonl", [{"prompt": "parcel " * 90, "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match="training data: none of 1 pairs can be used"):
        rehearse(recipe_for(small_model, too_long), listening()[0])
