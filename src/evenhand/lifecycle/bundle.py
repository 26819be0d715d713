"""A finished run as a folder to ship: weights, tokenizer, manifest, card and bill of materials, proved before it appears."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evenhand.errors import ExportError, UserError
from evenhand.files import as_disk_error, storage_error, sync_directory, write_json, write_whole
from evenhand.lifecycle import proof
from evenhand.lifecycle.base import Base, base_of
from evenhand.lifecycle.bill import bill_of_materials
from evenhand.lifecycle.card import card_text
from evenhand.lifecycle.classifier import set_padding
from evenhand.lifecycle.export import TOLERANCE
from evenhand.lifecycle.gguf_file import write_gguf
from evenhand.lifecycle.llama_cpp import NOT_ASKED, is_installed
from evenhand.lifecycle.manifest import write_manifest
from evenhand.lifecycle.parity import serving_problems
from evenhand.lifecycle.provenance import FinishedRun, facts_of, read_run
from evenhand.lifecycle.signature import public_key_of, sign
from evenhand.model.forward import Policy
from evenhand.model.load import (
    Source,
    builtin_or_hub,
    choose_device,
    find_source,
    load_model,
    load_tokenizer,
)
from evenhand.model.places import remember_place

BILL = "bom.cdx.json"
CARD = "README.md"
# What a tokenizer is made of; weights and their configuration are written anew, and nothing that executes is copied.
_TOKENIZER_FILES = {".json", ".jinja", ".model", ".txt"}
_STORED = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCE}
_WRITTEN_ANEW = re.compile(r".*\.safetensors\.index\.json|config\.json|adapter_config\.json")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to write: the adapter, or with `merge` whole weights; `gguf` asks for one F16 file; `key` signs it all.

    `dtype` is that of whole weights, and the one of the base on which an adapter is proved beside fp32. `serving` is the model folder of the server that is to run it, which must feed and stop alike.
    """

    merge: bool = False
    gguf: bool = False
    dtype: str = "auto"
    key: Path | None = None
    serving: Path | None = None


@dataclass(frozen=True, slots=True)
class Shipped:
    """What was written and how it was proved."""

    folder: Path
    manifest_sha256: str
    kinds: tuple[str, ...]
    proofs: tuple[proof.Proof, ...]
    signed: bool

    def json(self) -> dict[str, Any]:
        """The shape of `evenhand export --json`."""
        return {
            "folder": str(self.folder),
            "manifest_sha256": self.manifest_sha256,
            "kinds": list(self.kinds),
            "proofs": [found.json() for found in self.proofs],
            "signed": self.signed,
        }


@dataclass(frozen=True, slots=True)
class _Trained:
    """A run's model in memory, in fp32, with the base that it stands on."""

    run: FinishedRun
    base: Base
    base_source: Source
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    seen: proof.Witness

    @property
    def is_adapter(self) -> bool:
        """Whether the run trained an adapter."""
        return isinstance(self.policy.model, PeftModel)


def export_run(run_folder: Path, out: Path, wanted: Wanted, say: Callable[[str], None]) -> Shipped:
    """Write the run's model to `out`, which must not exist; it appears whole and proved, or not at all.

    Raises UserError for a run without a finished model, an `out` that exists or an unknown `dtype`, ModelError where the
    base is missing or another one, ExportError where the exported model is not the trained one or the server another one,
    StorageError where the disk fails.
    """
    if wanted.dtype not in ("auto", *_STORED):
        raise UserError(f"--dtype {wanted.dtype!r} is none of auto, {', '.join(_STORED)}.")
    run = read_run(run_folder)
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists already; choose another --out, or remove it.")
    public_key = public_key_of(wanted.key) if wanted.key else None
    if wanted.serving and (found := serving_problems(run.model, wanted.serving)):
        raise ExportError(f"{wanted.serving} would serve it otherwise: {found[0].path} {found[0].what}.")
    trained = _load(run, say)
    staging = out.absolute().with_name(f".{out.name}.staging-{os.getpid()}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        fill = _fill_rewards if trained.policy.gives_rewards else _fill
        kinds, proofs = fill(trained, staging, wanted, say)
        facts = facts_of(run, trained.base) | {"kinds": kinds, "proofs": [found.json() for found in proofs]}
        write_whole(staging / CARD, card_text(facts))
        write_json(staging / BILL, bill_of_materials(facts, staging))
        signature = {"public_key": public_key} if public_key else None
        manifest_sha256 = write_manifest(staging, facts | {"signature": signature})
        if wanted.key:
            sign(staging, wanted.key)
        _publish(staging, out)
        _remember(trained)
    except OSError as error:
        raise storage_error(error, out, _bytes(trained)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Shipped(out, manifest_sha256, tuple(kinds), tuple(proofs), wanted.key is not None)


def _load(run: FinishedRun, say: Callable[[str], None]) -> _Trained:
    base, base_source = base_of(run.recipe.model.source, run.identity["model"])
    source = find_source(str(run.model))
    if source.base is not None:  # the folder's own note of its base is a path of the machine that trained it
        source = Source(source.name, source.folder, base_source, source.ignored)
    tokenizer = load_tokenizer(source)
    say(f"loading {run.model} in fp32 and scoring {proof.ROWS} probe rows")
    policy = Policy(load_model(source, torch.float32, choose_device()))
    return _Trained(run, base, base_source, policy, tokenizer, proof.witness(policy, tokenizer, run.recipe.form))


def _fill(
    trained: _Trained, staging: Path, wanted: Wanted, say: Callable[[str], None]
) -> tuple[list[str], list[proof.Proof]]:
    """The weights in each form that is wanted, each proved."""
    kinds: list[str] = []
    proofs: list[proof.Proof] = []
    whole = wanted.merge or not trained.is_adapter
    if whole or not wanted.gguf:
        _copy_tokenizer(trained.run.model, staging)
    if not whole and not wanted.gguf:
        as_disk_error(lambda: _save_adapter(trained, staging))
        kinds.append("adapter")
        base = trained.base_source.folder
        proofs += [
            proof.prove_adapter(trained.seen, staging, base, dtype) for dtype in _served_in(trained, wanted.dtype)
        ]
    if whole or wanted.gguf:
        dtype = _stored_dtype(trained, wanted.dtype)
        model = _merged(trained)
        if wanted.gguf:
            file = staging / f"{trained.run.recipe.name}-f16.gguf"
            as_disk_error(lambda: write_gguf(model, trained.tokenizer, trained.seen.stops, file))
            kinds.append("gguf")
            proofs.append(proof.prove_gguf(trained.seen, file))
            if is_installed():
                proofs.append(proof.prove_by_llama_cpp(trained.seen, file))
            else:
                say(NOT_ASKED)
        if whole:
            as_disk_error(lambda: model.to(dtype).save_pretrained(staging, max_shard_size="5GB"))
            shutil.copyfile(trained.run.model / "generation_config.json", staging / "generation_config.json")
            kinds.append("merged")
            proofs.append(proof.prove_merged(trained.seen, staging, dtype))
    for found in proofs:
        say(
            f"loaded again by {found.loader}: log-probabilities within {found.largest_difference:.1e} nats per token on "
            f"{found.rows} rows (allowed {found.tolerance:.0e}{_mean_words(found)}), prompts have the same tokens"
        )
    return kinds, proofs


def _mean_words(found: proof.Proof) -> str:
    return "" if found.mean_difference is None else f"; {found.mean_difference:.1e} in the mean"


def _fill_rewards(
    trained: _Trained, staging: Path, wanted: Wanted, say: Callable[[str], None]
) -> tuple[list[str], list[proof.Proof]]:
    """A reward model as a sequence classifier; always merged, since an adapter cannot tell its base what is padding."""
    if wanted.gguf:
        raise UserError("a reward model has no GGUF form that servers read; export it without --gguf.")
    dtype = _stored_dtype(trained, wanted.dtype)
    _copy_tokenizer(trained.run.model, staging)
    model = _merged(trained)
    set_padding(model, int(trained.tokenizer.pad_token_id))
    as_disk_error(lambda: model.to(dtype).save_pretrained(staging, max_shard_size="5GB"))
    found = proof.prove_rewards(trained.seen, staging, dtype)
    say(
        f"loaded again by {found.loader}: rewards of padded rows within {found.largest_difference:.1e} on {found.rows} rows "
        f"(allowed {found.tolerance:.0e}); its chat template gives the tokens of {found.same_prompt_tokens} of them"
    )
    return ["classifier"], [found]


def _copy_tokenizer(model: Path, staging: Path) -> None:
    """Tokenizer, chat template and generation settings, as training wrote them."""
    for file in sorted(model.iterdir()):
        if file.is_symlink() or file.suffix not in _TOKENIZER_FILES or not file.is_file():
            continue
        if not _WRITTEN_ANEW.fullmatch(file.name):
            shutil.copyfile(file, staging / file.name)


def _save_adapter(trained: _Trained, staging: Path) -> None:
    """The adapter with its base by name; PEFT's own configuration, in which only the base's place is another."""
    shutil.copyfile(trained.run.model / "adapter_model.safetensors", staging / "adapter_model.safetensors")
    config = json.loads((trained.run.model / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": trained.base.name, "revision": trained.base.revision}
    write_json(staging / "adapter_config.json", config)


def _merged(trained: _Trained) -> PreTrainedModel:
    """Whole weights in fp32; the adapter is added to an fp32 base, since adding in half precision would round it away."""
    trained.policy.release()
    model = trained.policy.model
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _stored_dtype(trained: _Trained, name: str) -> torch.dtype:
    """As asked, else the precision in which the base is stored; fp32 for one that has no tolerance to be proved within."""
    if name == "auto":
        config = json.loads((trained.base_source.folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("dtype") or config.get("torch_dtype")
    return _STORED.get(name, torch.float32)


def _served_in(trained: _Trained, name: str) -> list[torch.dtype]:
    """The precisions in which an adapter is proved: fp32, and a half in which its base is served or was trained on."""
    machine = (trained.run.report or {}).get("machine") or {}
    served = {_stored_dtype(trained, name), _STORED.get(machine.get("dtype", ""), torch.float32)}
    return [torch.float32, *sorted(served - {torch.float32}, key=str)]


def _publish(staging: Path, out: Path) -> None:
    """Give the finished folder its name; raises UserError where another process was faster."""
    for file in staging.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_directory(staging)
    if out.exists():
        raise UserError(f"{out} appeared while the export ran; choose another --out.")
    staging.rename(out)
    sync_directory(out.absolute().parent)


def _remember(trained: _Trained) -> None:
    """So that on this machine the export finds its base and its held-out pairs, whose folders it does not name."""
    run, source = trained.run, trained.base_source
    if not builtin_or_hub(trained.base.name):
        remember_place(trained.base.sha256, {"folder": str(source.folder.resolve())})
    data = run.recipe.data
    paths = {key: getattr(data, key) for key in ("source", "train", "validation")}
    here = {
        key: str(Path(path).resolve()) for key, path in paths.items() if isinstance(path, str) and Path(path).exists()
    }
    if here:
        remember_place(run.identity["data"], {"data": here})


def _bytes(trained: _Trained) -> int:
    return sum(weight.nbytes for weight in trained.policy.parameters())
