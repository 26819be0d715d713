"""What `evaluate` finds beside scores, against plain transformers in float64 and against numbers by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_model import listening, recipe_value, rows, small_tokenizer, write_rows
from small_run import finished_run
from transformers import AutoModelForCausalLM

from evenhand.data.preparation import Wanted as CuratedAs
from evenhand.data.preparation import prepare
from evenhand.data.schema import Message
from evenhand.errors import DataError, UserError
from evenhand.evaluation.overfit import Side, train_gap, unpaired
from evenhand.evaluation.paraphrase import paraphrase_pairs, paraphrased
from evenhand.evaluation.replies import read_replies
from evenhand.figure import Figure
from evenhand.lifecycle.align import align
from evenhand.lifecycle.appraisal import Asked
from evenhand.lifecycle.examination import Wanted, examine
from evenhand.lifecycle.start import kept_drift, run_drift
from evenhand.model.scores import ScoredPairs
from evenhand.training.recipe import check_recipe


def quiet(*_: Any) -> None:
    return None


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run that moved far, its training rows and its held-out rows, which name a region and a score."""
    folder = tmp_path_factory.mktemp("examined")
    made = [{**row, "region": ("north", "south")[i % 2], "score": i} for i, row in enumerate(rows(60, seed=4))]
    train, held_out = write_rows(folder / "train.jsonl", made[:24]), write_rows(folder / "held_out.jsonl", made[24:])
    value = recipe_value(small_model, {"train": str(train), "validation": str(held_out)}, learning_rate=3e-2, steps=12)
    align(check_recipe(value, "test"), folder / "run", listening()[0])
    return folder / "run", train, held_out


@pytest.fixture(scope="module")
def examined(run: tuple[Path, Path, Path]) -> Any:
    folder, train, held_out = run
    wanted = Wanted(prompts=3, columns=("region", "score"), train=str(train))
    return examine(Asked(str(folder), str(held_out), dtype="float32"), wanted, quiet, quiet)


def test_the_start_is_the_base_with_its_adapter_off_and_the_gap_to_training_pairs_has_grown(run, examined):
    """The same with the base as a second model in memory, which must not change a number."""
    folder, train, held_out = run
    found = examined.train_gap
    base = Wanted(train=str(train), start=str(base_of(folder)))
    again = examine(Asked(str(folder), str(held_out), dtype="float32"), base, quiet, quiet).train_gap
    assert again.growth.value == pytest.approx(found.growth.value)
    assert found.gap.n == found.growth.n == 60


def test_curated_data_gives_its_training_side_to_train_and_its_held_out_side_to_data(run, tmp_path):
    """The folder given twice measures what its two files measure."""
    folder, train, _ = run
    said: list[str] = []
    prepare(str(train), tmp_path / "v1", CuratedAs(validation=0.25), quiet)
    data = str(tmp_path / "v1")
    twice = examine(Asked(str(folder), data, dtype="float32"), Wanted(train=data), said.append, quiet)
    sides = [str(tmp_path / "v1" / f"{side}.parquet") for side in ("train", "validation")]
    files = examine(Asked(str(folder), sides[1], dtype="float32"), Wanted(train=sides[0]), quiet, quiet)
    assert twice.train_gap == files.train_gap
    assert twice.train_gap.gap.n == 24
    assert f"{data}: curated data, of which the 18 training pairs are taken" in said
    assert f"{data}: curated data, of which the 6 held-out pairs are taken" in said


def base_of(folder: Path) -> str:
    return json.loads((folder / "recipe.json").read_text())["model"]["source"]


def test_drift_is_the_divergence_that_transformers_gives_in_float64(run, examined):
    folder, _, _ = run
    replies = examined.evaluated.generation.replies
    assert examined.drift.on_new_replies.value == pytest.approx(divergence(folder, replies), rel=1e-4)
    assert examined.drift.on_start_replies.value > 0


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_a_run_measures_its_drift_along_the_replies_it_kept_and_keeps_it(tmp_path, small_model, adapter):
    folder = finished_run(tmp_path, small_model, adapter)
    kept = {when: read_replies(folder / "rows" / f"replies-{when}.json").replies for when in ("before", "after")}
    found = run_drift(folder, quiet, quiet)
    for key, path in (("on_new_replies", "after"), ("on_start_replies", "before")):
        by_hand = divergence(folder, kept[path], of_start=path == "before")
        assert found[key]["value"] == pytest.approx(by_hand, rel=1e-3, abs=1e-7)
        assert found[key]["n"] == sum(bool(reply.text.strip()) for reply in kept[path])
    assert kept_drift(folder) == found
    (file,) = (folder / "model").glob("*.safetensors")
    weights = load_file(file)
    weights[min(weights)] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    assert kept_drift(folder) is None  # of another model
    (folder / "rows" / "replies-before.json").unlink()
    with pytest.raises(UserError, match=r"replies-before.json is missing: drift is measured along replies"):
        run_drift(folder, quiet, quiet)


def divergence(folder, replies, of_start=False):
    """KL(model, start) along the replies in nats a token, or KL(start, model), by transformers and PEFT in float64."""
    base = AutoModelForCausalLM.from_pretrained(base_of(folder)).double().eval()
    if (folder / "model" / "adapter_config.json").exists():
        new = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_of(folder)), folder / "model")
    else:
        new = AutoModelForCausalLM.from_pretrained(folder / "model")
    models = (base, new.double().eval()) if of_start else (new.double().eval(), base)
    tokenizer, means = small_tokenizer(), []
    for reply in replies:
        if not reply.text.strip():
            continue
        turns = [message.json() for message in reply.prompt]
        head = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        body = tokenizer.encode(reply.text, add_special_tokens=False)
        ids = torch.tensor([[*head, *body, tokenizer.eos_token_id]])
        with torch.no_grad():
            one, other = (m(input_ids=ids).logits[0, len(head) - 1 : -1].log_softmax(-1) for m in models)
        means.append(float((one.exp() * (one - other)).sum(-1).mean()))
    return np.mean(means)


def test_columns_are_slices_and_one_that_is_not_there_is_named(run, examined):
    folder, _, held_out = run
    slices = examined.evaluated.preference.slices
    assert {value: figure.n for value, figure in slices["region"].items()} == {"north": 18, "south": 18}
    assert sum(figure.n for figure in slices["score"].values()) == 36
    assert {"lowest quarter", "highest quarter"} < set(slices["score"])
    with pytest.raises(DataError, match=r"no row has a column `place`; there are .*region"):
        examine(Asked(str(folder), str(held_out)), Wanted(columns=("place",)), quiet, quiet)


def test_the_answer_has_every_part(examined):
    found = examined.json()
    assert found["calibration"]["beta"] == 2.0
    assert found["paraphrases"]["original"]["n"] == 20
    assert found["paraphrases"]["paraphrased"]["n"] == 40
    assert found["speed"]["tokens_per_second_alone"]["value"] > 0
    assert found["length_controlled_accuracy"]["n"] == 36
    assert found["generation"]["lower_quartile_tokens"]["n"] == 3


def test_paraphrases_are_compared_question_by_question():
    pairs = paraphrase_pairs()
    assert len({pair.prompt for pair in pairs}) == len(pairs) == 60
    assert all(isinstance(pair.prompt[0], Message) and pair.prompt[0].content.strip() for pair in pairs)
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    assert 0.4 <= longer <= 0.6
    # Right on every first wording, on half of the others, and one question that cannot be scored.
    gaps = np.array([1.0, 1.0, -1.0] * 20)
    gaps[0] = np.nan
    found = paraphrased(lambda given: gaps)
    assert (found.original.value, found.original.n) == (1.0, 19)
    assert (found.paraphrased.value, found.change.value, found.same.value) == (0.5, -0.5, 0.5)


def sided(right: int, wrong: int) -> ScoredPairs:
    count = right + wrong
    gap = np.array([1.0] * right + [-1.0] * wrong)
    ones = np.ones(count, dtype=np.int64)
    return ScoredPairs(np.arange(count), tuple(map(str, range(count))), gap, np.zeros(count), ones, ones)


def test_a_gap_that_grew_is_flagged_and_one_that_was_always_there_is_not():
    grew = train_gap(Side(sided(190, 10), sided(100, 100)), Side(sided(110, 90), sided(100, 100)))
    assert grew.flagged
    assert grew.growth.value == pytest.approx(0.45 - 0.05)
    always = train_gap(Side(sided(190, 10), sided(190, 10)), Side(sided(110, 90), sided(110, 90)))
    assert not always.flagged
    assert train_gap(Side(sided(190, 10)), Side(sided(110, 90))).flagged
    assert unpaired(Figure(None, 0), Figure(0.5, 3)) == Figure(None, 3)
