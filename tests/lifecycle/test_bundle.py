"""A finished run becomes a folder that neighbours load, that proves itself, and that names no machine."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_model import listening, rows, write_rows
from small_run import finished_run
from test_export import small_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, Qwen2Config, Qwen2ForCausalLM

from evenhand.errors import ExportError, ModelError, StorageError, UserError
from evenhand.figure import figure
from evenhand.lifecycle.appraisal import Asked, appraise, recipe_of
from evenhand.lifecycle.bundle import Shipped, Wanted, export_run
from evenhand.lifecycle.contestant import load_contestant
from evenhand.lifecycle.gguf_file import splitting_of, write_gguf
from evenhand.lifecycle.manifest import manifest_hash, problems, read_manifest
from evenhand.lifecycle.signature import signature_problems
from evenhand.model.load import Source, find_source
from evenhand.model.scores import ScoredPairs

__all__ = ["small_disk"]
SILENT = listening()[0].say


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> dict[str, Path]:
    """A run of an adapter and one of all weights."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "adapter": finished_run(folder / "adapter", small_model),
        "full": finished_run(folder / "full", small_model, adapter=False),
    }


@pytest.fixture(scope="session")
def adapter(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shipped]:
    """The adapter's run, exported."""
    out = tmp_path_factory.mktemp("shipped") / "out"
    return out, export_run(runs["adapter"], out, Wanted(), SILENT)


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the adapter's run, to be spoilt."""
    subprocess.run(["cp", "-r", runs["adapter"], tmp_path / "run"], check=True)
    return tmp_path / "run"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 40)[None]).logits
    return found


def trained_logits(run: Path, base: Path) -> torch.Tensor:
    """The run's own model, by PEFT and transformers alone."""
    if (run / "model" / "adapter_config.json").exists():
        return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "model").eval())
    return logits(AutoModelForCausalLM.from_pretrained(run / "model").eval())


def test_an_adapter_is_shipped_with_its_base_by_name(
    runs: dict[str, Path], small_model: Path, adapter: tuple[Path, Shipped]
) -> None:
    out, shipped = adapter
    assert shipped.kinds == ("adapter",)
    assert problems(out) == []
    assert shipped.manifest_sha256 == manifest_hash(out)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("small", None)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), out).eval()
    assert torch.equal(logits(again), trained_logits(runs["adapter"], small_model))
    (proof,) = shipped.proofs
    assert (proof.rows, proof.same_prompt_tokens, proof.replies_alike) == (64, 64, 4)
    assert proof.largest_difference <= 1e-4


def test_a_run_in_bf16_is_shipped_as_what_it_was_evaluated_as(small_model: Path, tmp_path: Path) -> None:
    """The report's own scores of the held-out pairs, against the exported files read by transformers and PEFT alone."""
    run, out = finished_run(tmp_path, small_model, dtype="bfloat16"), tmp_path / "out"
    exact, half = export_run(run, out, Wanted(), SILENT).proofs  # the base is stored in fp32, the run was in bf16
    assert (exact.loader, exact.tolerance) == ("PEFT", 1e-4)
    assert (half.loader, half.tolerance) == ("PEFT, bfloat16", 1e-1)
    assert exact.largest_difference <= 1e-4
    assert half.mean_difference is not None
    assert 0 < half.mean_difference < half.largest_difference <= 2e-2
    base = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.bfloat16)
    model, tokenizer = PeftModel.from_pretrained(base, out).eval(), AutoTokenizer.from_pretrained(out)
    step = json.loads((run / "done.json").read_text())["step"]
    kept = ScoredPairs.read(run / "rows" / f"step-{step:06d}.parquet")
    pairs = [json.loads(line) for line in (tmp_path / "held_out.jsonl").read_text().splitlines()]
    for i, row in enumerate(kept.row_B.tolist()):
        mean = answer_mean(model, tokenizer, pairs[row]["prompt"], pairs[row]["chosen"])
        assert abs(mean - kept.chosen_mean_B[i]) <= 2e-2


def test_a_base_in_float16_gives_an_export_in_float16(small_model: Path, tmp_path: Path) -> None:
    half = shutil.copytree(small_model, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(small_model).half().save_pretrained(half)
    run = finished_run(tmp_path, half)
    (merged,) = export_run(run, tmp_path / "merged", Wanted(merge=True), SILENT).proofs
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.float16
    assert merged.loader == "transformers, float16"
    exact, rounded = export_run(run, tmp_path / "adapter", Wanted(), SILENT).proofs
    assert (exact.loader, rounded.loader) == ("PEFT", "PEFT, float16")
    assert exact.largest_difference <= 1e-4
    assert 0 < rounded.largest_difference <= 2e-2
    with pytest.raises(UserError, match=r"'float64' is none of auto, float32, bfloat16, float16"):
        export_run(run, tmp_path / "other", Wanted(dtype="float64"), SILENT)


def answer_mean(model: torch.nn.Module, tokenizer: Any, prompt: str, answer: str) -> float:
    """Mean log-probability of a rendered answer and its end of turn, nats per token, by transformers alone."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    head = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(turns)["input_ids"]
    end = max(i for i, token in enumerate(whole) if token == tokenizer.eos_token_id) + 1
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole[:end]])).logits[0].double()
    told = logits.log_softmax(-1)[range(len(head) - 1, end - 1), whole[len(head) : end]]
    return float(told.mean())


@pytest.mark.parametrize("kind", ["adapter", "full"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_merged_weights_are_the_trained_models(
    runs: dict[str, Path], small_model: Path, tmp_path: Path, kind: str, dtype: Any
) -> None:
    shipped = export_run(runs[kind], tmp_path / "out", Wanted(merge=True, dtype=dtype), SILENT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == (torch.float32 if dtype == "auto" else getattr(torch, dtype))
    assert model.generation_config.eos_token_id == 2
    tolerance = 1e-4 if dtype == "auto" else 0.3
    assert torch.allclose(logits(model.float().eval()), trained_logits(runs[kind], small_model), atol=tolerance)
    assert shipped.proofs[0].largest_difference <= (1e-4 if dtype == "auto" else 2e-2)
    turns = [{"role": "user", "content": "Where is my parcel?"}]
    one, other = (AutoTokenizer.from_pretrained(f) for f in (tmp_path / "out", small_model))
    assert one.apply_chat_template(turns, tokenize=False) == other.apply_chat_template(turns, tokenize=False)


def test_a_gguf_gives_the_same_numbers(runs: dict[str, Path], small_model: Path, tmp_path: Path) -> None:
    shipped = export_run(runs["adapter"], tmp_path / "out", Wanted(gguf=True), SILENT)
    assert shipped.kinds == ("gguf",)
    assert shipped.proofs[0].largest_difference <= 5e-2
    (file,) = (tmp_path / "out").glob("*.gguf")
    settings = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=settings, dtype=torch.float32
    )
    assert torch.allclose(logits(model.eval()), trained_logits(runs["adapter"], small_model), atol=0.05)
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert "<|im_start|>" in fields["tokenizer.chat_template"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[i] for i in range(4)] == [3, 3, 3, 1]


def test_llama_cpp_reads_the_gguf_where_it_is_installed_and_one_sentence_says_where_it_is_not(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, said = listening()
    if importlib.util.find_spec("xllamacpp") is not None:
        _, proof = export_run(runs["adapter"], tmp_path / "asked", Wanted(gguf=True), tell.say).proofs
        assert (proof.loader, proof.rows, proof.same_prompt_tokens, proof.replies_alike) == ("llama.cpp", 4, 64, 4)
        assert proof.largest_difference <= 5e-3
    monkeypatch.setattr("evenhand.lifecycle.bundle.is_installed", lambda: False)
    assert len(export_run(runs["adapter"], tmp_path / "out", Wanted(gguf=True), tell.say).proofs) == 1
    assert "llama.cpp itself was not asked: its bindings are missing, pip install 'evenhand[llamacpp]'" in said


def test_a_qwen2_gguf_keeps_its_biases(tmp_path: Path, small_model: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=400, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    ).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    write_gguf(model, AutoTokenizer.from_pretrained(small_model), frozenset({2}), tmp_path / "m.gguf")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    assert torch.allclose(logits(again.eval()), logits(model), atol=0.01)


def test_no_exported_file_names_a_folder_of_this_machine(
    runs: dict[str, Path], adapter: tuple[Path, Shipped], small_model: Path, tmp_path: Path
) -> None:
    export_run(runs["adapter"], tmp_path / "whole", Wanted(merge=True, gguf=True), SILENT)
    places = (Path.home(), small_model.parents[2], runs["adapter"].parents[2], tmp_path, Path.cwd())
    for out in (adapter[0], tmp_path / "whole"):
        files = [file for file in out.rglob("*") if file.is_file()]
        assert len(files) >= 7
        assert [(f.name, p) for f in files for p in places if str(p).encode() in f.read_bytes()] == []


def test_an_export_finds_its_base_and_its_held_out_pairs_where_they_lie(
    adapter: tuple[Path, Shipped], small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = adapter
    contestant = load_contestant(str(out), "float32", SILENT)
    assert contestant.source.base == Source("small", small_model)
    assert len(contestant.own_held_out()[0]) == 8
    monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path / "another machine's"))
    with pytest.raises(
        ModelError, match=r"stands on a base called small, whose weights hash to \w{16}, and this machine"
    ):
        find_source(str(out))
    subprocess.run(["cp", "-r", small_model, tmp_path / "small"], check=True)
    monkeypatch.chdir(tmp_path)
    elsewhere = load_contestant(str(out), "float32", SILENT)
    assert elsewhere.own_held_out()[0] == ()
    weights = load_file("small/model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, "small/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"is not the base that .* was trained on"):
        load_contestant(str(out), "float32", SILENT)
    held_out = write_rows(Path("pairs.jsonl"), rows(3))
    with pytest.raises(ModelError, match=r"is not the base that .* was trained on"):
        appraise(Asked(str(out), str(held_out)), SILENT, lambda *_: None)


def test_an_export_is_evaluated_in_the_form_of_its_run(runs: dict[str, Path], adapter: tuple[Path, Shipped]) -> None:
    """Its lengths and template are those of the recipe, and so its scores are the run's."""
    held_out = str(runs["adapter"].parent / "held_out.jsonl")
    one, other = (
        appraise(Asked(str(model), held_out, dtype="float32"), SILENT, lambda *_: None)
        for model in (runs["adapter"], adapter[0])
    )
    assert one.held_out.form == other.held_out.form
    assert one.scored.chosen_sum_B.tolist() == other.scored.chosen_sum_B.tolist()
    assert recipe_of(find_source(str(adapter[0]))).objective.beta == 2.0


def test_what_gguf_cannot_say_is_refused() -> None:
    digits = {"type": "Digits", "individual_digits": True}
    bytes_ = {"type": "ByteLevel", "use_regex": True}
    assert splitting_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, bytes_]}}) == "smollm"
    for splitter in ({"type": "Whitespace"}, {"type": "Sequence", "pretokenizers": [bytes_, digits]}, None):
        with pytest.raises(ExportError, match="no GGUF is written for a vocabulary that splits text by"):
            splitting_of({"pre_tokenizer": splitter})


def test_the_manifest_says_where_it_comes_from(runs: dict[str, Path], adapter: tuple[Path, Shipped]) -> None:
    out, _ = adapter
    manifest = read_manifest(out)
    identity = json.loads((runs["adapter"] / "identity.json").read_text())
    report = json.loads((runs["adapter"] / "report.json").read_text())
    assert manifest["data"]["hash"] == identity["data"]
    assert (manifest["data"]["rows_in"], manifest["data"]["rows_used"]) == (26, 26)
    assert manifest["base"]["sha256"] == identity["model"]
    recipe = json.loads((runs["adapter"] / "recipe.json").read_text())
    recipe["model"]["source"] = manifest["base"]["name"]
    recipe["data"] |= {"train": "train.jsonl", "validation": "held_out.jsonl"}
    assert manifest["recipe"] == recipe
    assert manifest["results"]["after"] == report["after"]
    assert manifest["seeds"] == {"training": 0, "split": 0}
    assert manifest["code"]["torch"] == torch.__version__.partition("+")[0]
    assert re.fullmatch("[0-9a-f]{64}", manifest["code"]["source_sha256"])
    assert manifest["hardware"]["dtype"] == "float32"
    bill = json.loads((out / "bom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {part["name"]: part for part in bill["metadata"]["component"]["components"]}
    for name in ("adapter_model.safetensors", "tokenizer.json"):
        assert named[name]["hashes"][0]["content"] == manifest["files"][name]["sha256"]


def test_the_card_tells_what_was_measured_and_no_more(runs: dict[str, Path], adapter: tuple[Path, Shipped]) -> None:
    out, _ = adapter
    card = ModelCard.load(out / "README.md")
    after = json.loads((runs["adapter"] / "report.json").read_text())["after"]
    assert card.data.library_name == "peft"
    assert card.data.eval_results[0].metric_value == after["pairwise_accuracy"]["value"]
    text = card.text
    for words in ("| beta | 2 |", "| margin | 0.5 |", "| paper gamma | 1 |", "| licence | not recorded |"):
        assert words in text
    assert figure(after["pairwise_accuracy"]).words() in text
    assert figure(after["slices"]["longer_side"]["chosen_shorter"]).words() in text
    assert "Drift from the base on other tasks: not measured" in text


def test_a_signature_fits_one_key_and_these_files(runs: dict[str, Path], tmp_path: Path) -> None:
    if importlib.util.find_spec("model_signing") is None:
        pytest.skip("the extra [sign] is not installed")
    keys = {}
    for name in ("mine", "other"):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        curve = ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", str(private)]
        subprocess.run(curve, check=True)
        subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
        keys[name] = (private, public)
    out = tmp_path / "out"
    assert export_run(runs["adapter"], out, Wanted(key=keys["mine"][0]), SILENT).signed
    assert problems(out) == signature_problems(out, keys["mine"][1]) == signature_problems(out, None) == []
    (wrong,) = signature_problems(out, keys["other"][1])
    assert "another key" in wrong.what
    with pytest.raises(UserError, match="is no private key"):
        export_run(runs["adapter"], tmp_path / "two", Wanted(key=keys["mine"][1]), SILENT)
    (out / "README.md").write_text("changed")
    assert "does not fit the files" in signature_problems(out, None)[0].what
    (out / "model.sig").unlink()
    assert "model.sig" in [problem.path for problem in problems(out)]
    assert not (tmp_path / "two").exists()


def refused(run: Path, out: Path, error: type[Exception], said: str) -> None:
    """The export is refused in a sentence, and nothing is left where it would have been."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(error, match=said):
        export_run(run, out, Wanted(), SILENT)
    assert sorted(out.parent.iterdir()) == before


def test_a_run_that_has_not_finished_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "done.json").unlink()
    refused(run, tmp_path / "out", UserError, "has not finished; run `evenhand train` again")
    refused(tmp_path / "no-run", tmp_path / "out", UserError, "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "out", UserError, "holds no recipe.json")


def test_a_target_that_exists_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refused(run, tmp_path / "out", UserError, "exists already")


def test_a_base_that_is_missing_or_another_one_is_refused(run: Path, small_model: Path, tmp_path: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["model"]["source"] = str(tmp_path / "gone")
    del recipe["objective"]["paper_gamma"]
    (run / "recipe.json").write_text(json.dumps(recipe))
    refused(run, tmp_path / "out", ModelError, "gone is not a folder")
    subprocess.run(["cp", "-r", small_model, tmp_path / "gone"], check=True)
    weights = load_file(tmp_path / "gone" / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "gone" / "model.safetensors", metadata={"format": "pt"})
    refused(run, tmp_path / "out", ModelError, "is not the base that was trained on: its weights hash to")


def test_an_export_that_differs_is_not_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenhand.lifecycle.bundle._save_adapter", spoilt_adapter)
    refused(run, tmp_path / "out", ExportError, r"loaded by PEFT, differs by .* nothing was published")


def spoilt_adapter(trained: Any, staging: Path) -> None:
    """As a storage that flips a bit would save it."""
    weights = load_file(trained.run.model / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name] += 0.5
    save_file(weights, staging / "adapter_model.safetensors")
    (staging / "adapter_config.json").write_bytes((trained.run.model / "adapter_config.json").read_bytes())


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_weights_that_were_changed_or_do_not_fit_are_refused(runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", runs[kind], run], check=True)
    (file,) = (run / "model").glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if "q_proj" in name)
    weights[name] += 1e-3
    save_file(weights, file, metadata={"format": "pt"})
    refused(
        run, tmp_path / "out", ModelError, r"is not what the run ended with: its weights hash to \w{16} and the run"
    )
    done = json.loads((run / "done.json").read_text())
    del done["weights"]  # as of a run of an older version
    (run / "done.json").write_text(json.dumps(done))
    weights[name.replace("q_proj", "other")] = weights.pop(name)
    save_file(weights, file, metadata={"format": "pt"})
    refused(
        run, tmp_path / "out", ModelError, "1 of the model's weights are not in its files, .*q_proj.* save it again"
    )


def test_a_full_disk_leaves_nothing(runs: dict[str, Path], small_disk: Path) -> None:
    refused(runs["full"], small_disk / "out", StorageError, "No space left")
