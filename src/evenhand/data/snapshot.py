"""A curated data set as a folder that is written whole or not at all, and that can prove what it holds."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evenhand.data.audit import Audit
from evenhand.data.category import DERIVATION
from evenhand.data.curate import Curation
from evenhand.data.schema import Message, PreferencePair, Refusal
from evenhand.data.split import Split
from evenhand.errors import DataError
from evenhand.figure import figure
from evenhand.files import (
    canonical_json,
    content_root,
    sha256,
    sha256_file,
    storage_error,
    sync_directory,
    write_json,
    write_whole,
)

SCHEMA_VERSION = 1

_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),
        ("group", pa.string()),
        ("prompt", _TURNS),
        ("chosen", _TURNS),
        ("rejected", _TURNS),
        ("category", pa.string()),
        ("family", pa.string()),
    ]
)
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Source:
    """One file that the data came from: its name, the SHA-256 of its bytes, and the form of row it held."""

    name: str
    sha256: str
    kind: str
    rows: int


@dataclass(frozen=True, slots=True)
class Parents:
    """Where a data set comes from; `licence` and `origin` are None where nobody said."""

    sources: tuple[Source, ...]
    licence: str | None = None
    origin: str | None = None

    def json(self) -> dict[str, Any]:
        """The parents as dataset.json states them."""
        return asdict(self) | {"sources": [asdict(source) for source in self.sources]}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified data set: `dataset` is dataset.json, `hash` its content hash."""

    folder: Path
    dataset: dict[str, Any]
    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]

    @property
    def hash(self) -> str:
        """The content hash, which a model trained on this data names."""
        return str(self.dataset["hash"])


def content_hash(train: Iterable[PreferencePair], validation: Iterable[PreferencePair]) -> str:
    """One hash of what both sides say; ids, groups and row numbers, which depend on the file, have no part in it."""
    sides = (("train", train), ("validation", validation))
    return content_root(_content(name, pair) for name, pairs in sides for pair in pairs)


def write_snapshot(folder: Path, split: Split, curation: Curation, audit: Audit, parents: Parents) -> dict[str, Any]:
    """Write train.parquet, validation.parquet, ledger.jsonl, dataset.json and card.md to `folder`; return dataset.json.

    The folder appears whole or not at all. An existing snapshot with the same content hash is left as it is; any
    other existing folder raises DataError. A full or failing disk raises StorageError.
    """
    root = content_hash(split.train, split.validation)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        return _existing(folder, root)
    _clear_abandoned(folder)
    staging = folder.with_name(f".{folder.name}.staging-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        dataset = _fill(staging, root, (split, curation, audit, parents))
        sync_directory(staging)
        staging.replace(folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise storage_error(error, folder, _size(split)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return dataset


def read_snapshot(folder: Path) -> Snapshot:
    """The data set in `folder`, once every file's hash and the content hash are right; raises DataError if not."""
    dataset = _dataset(folder)
    for name, want in dataset["files"].items():
        if Path(name).name != name or not (folder / name).is_file() or sha256_file(folder / name) != want:
            raise DataError(f"{folder / name} is not the file that was written: restore it, or curate again.")
    train, validation = (tuple(_read(folder / f"{side}.parquet")) for side in ("train", "validation"))
    if (found := content_hash(train, validation)) != dataset["hash"]:
        raise DataError(
            f"{folder}: the pairs have the hash {found}, dataset.json says {dataset['hash']}; curate again."
        )
    return Snapshot(folder, dataset, train, validation)


def check_snapshot(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    """The content hash that `folder` states, and what is wrong with it, in words; nothing where all is as written.

    Every file must have its hash, the pairs theirs, dataset.json and the card must say the same, and no file may have
    been added.
    """
    try:
        dataset = read_snapshot(folder).dataset
    except DataError as error:
        return None, (str(error),)
    problems = []
    if dataset.get("seal") != _seal(dataset):
        problems.append("dataset.json was changed after it was written")
    if not (folder / "card.md").is_file() or (folder / "card.md").read_text(encoding="utf-8") != card(dataset):
        problems.append("card.md is not the card of this data set")
    known = {*dataset["files"], "dataset.json", "card.md"}
    problems += [f"{path.name} was added" for path in sorted(folder.iterdir()) if path.name not in known]
    return str(dataset["hash"]), tuple(problems)


def _seal(dataset: dict[str, Any]) -> str:
    """The hash of all that dataset.json says but this."""
    return sha256(canonical_json({key: value for key, value in dataset.items() if key != "seal"}))


def snapshot_refusals(folder: Path) -> tuple[Refusal, ...]:
    """The rows that were refused when the snapshot was read, as its ledger keeps them."""
    names = Refusal.__dataclass_fields__
    rows = (row for row in ledger_rows(folder) if row["outcome"] == "refused")
    return tuple(Refusal(**{name: row[name] for name in names if name in row}) for row in rows)


def ledger_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What became of each row that was read, as a snapshot's ledger says it."""
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").split("\n")
    return (json.loads(line) for line in lines if line)


def _existing(folder: Path, root: str) -> dict[str, Any]:
    if (folder / "dataset.json").is_file() and (found := read_snapshot(folder)).hash == root:
        return found.dataset
    raise DataError(f"{folder} exists and holds something else; choose another folder or remove it.")


def _clear_abandoned(folder: Path) -> None:
    """Remove what killed writers of the same folder left behind; a living process keeps its own."""
    for left in folder.parent.glob(f".{folder.name}.staging-*"):
        owner = left.name.rpartition("-")[2]
        if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _dataset(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        dataset = json.loads(path.read_bytes())
        version = dataset["schema_version"]
        _ = dataset["files"].items(), dataset["hash"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} is not a data set of evenhand: {path.name} cannot be read ({error!r}).") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version {version} is not {SCHEMA_VERSION}; curate again with this evenhand.")
    assert isinstance(dataset, dict)
    return dataset


def _fill(staging: Path, root: str, made: tuple[Split, Curation, Audit, Parents]) -> dict[str, Any]:
    split, curation, audit, parents = made
    _write_pairs(staging / "train.parquet", split.train)
    _write_pairs(staging / "validation.parquet", split.validation)
    _write_ledger(staging / "ledger.jsonl", curation)
    files = {name: sha256_file(staging / name) for name in ("train.parquet", "validation.parquet", "ledger.jsonl")}
    dataset = {
        "schema_version": SCHEMA_VERSION,
        "hash": root,
        "files": files,
        "rows": {"in": audit.rows_in, "used": audit.rows_used, "refused": audit.refused},
        "counts": curation.counts,
        "split": split.json(),
        "rules": curation.rules.json(),
        "annotators_dropped": [naming.json() for naming in curation.named],
        "categories": {
            "given": curation.categories_given,
            "derived": len(curation.pairs) - curation.categories_given,
            "derivation": DERIVATION,
        },
        "findings": {finding.id: finding.count for finding in audit.findings},
        "figures": {name: own.json() for name, own in audit.figures.items()},
        "label_noise": audit.consensus.noise.json(),
        "parents": parents.json(),
    }
    dataset["seal"] = _seal(dataset)
    write_json(staging / "dataset.json", dataset)
    write_whole(staging / "card.md", card(dataset))
    return dataset


def card(dataset: dict[str, Any]) -> str:
    """The data set's card in Markdown, from dataset.json alone."""
    split, parents, counts = dataset["split"], dataset["parents"], dataset["counts"]
    dropped = "\n".join(f"| {name} | {count} |" for name, count in counts["dropped"].items()) or "| none | 0 |"
    strata = "\n".join(
        f"| {row['category']} | {row['quartile']} | {row['train']} | {row['validation']} |" for row in split["table"]
    )
    sources = "\n".join(
        f"- {own['name']}: {own['rows']} rows ({own['kind']}), sha256 `{own['sha256']}`" for own in parents["sources"]
    )
    return (
        f"# Preference pairs `{dataset['hash'][:12]}`\n\n"
        f"{split['train']} training and {split['validation']} validation pairs from {counts['judgments']} judgments; "
        f"content hash `{dataset['hash']}`.\n\n"
        f"Licence: {parents['licence'] or 'not stated'}. Origin: {parents['origin'] or 'not stated'}.\n\n"
        f"## Sources\n\n{sources or 'none named'}\n\n"
        f"Categories: {dataset['categories']['given']} given, {dataset['categories']['derived']} derived "
        f"({dataset['categories']['derivation']}).\n\n"
        f"Label noise, by Dawid and Skene's model on what several annotators judged: "
        f"{figure(dataset['label_noise']).words()}.\n\n"
        f"## Judgments dropped\n\n| rule | judgments |\n|---|---|\n{dropped}\n\n"
        f"Rows refused when reading: {sum(dataset['rows']['refused'].values())}. "
        "What became of every judgment is in `ledger.jsonl`.\n\n"
        f"## Split\n\nWhole prompt families ({split['families']}) on one side, seed {split['seed']}, "
        f"share {split['share']:.4f} (wanted {split['wanted']}).\n\n"
        f"| category | length quartile | train | validation |\n|---|---|---|---|\n{strata}\n"
    )


def _content(side: str, pair: PreferencePair) -> dict[str, Any]:
    row = pair.json()
    return {"side": side} | {name: row[name] for name in ("prompt", "chosen", "rejected", "category", "family")}


def _write_pairs(path: Path, pairs: Sequence[PreferencePair]) -> None:
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for start in range(0, len(pairs), _ROWS_AT_ONCE):
            rows = [pair.json() for pair in pairs[start : start + _ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    _sync(path)


def _write_ledger(path: Path, curation: Curation) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for line in _ledger_lines(curation):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    _sync(path)


def _ledger_lines(curation: Curation) -> Iterable[dict[str, Any]]:
    yield from (row.json() for row in curation.ledger)
    yield from (refusal.json() | {"outcome": "refused"} for refusal in curation.refusals)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(path: Path) -> Iterator[PreferencePair]:
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield PreferencePair(
                id=row["id"],
                row=row["row"],
                group=row["group"],
                prompt=tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"]),
                chosen=row["chosen"][0]["content"],
                rejected=row["rejected"][0]["content"],
                category=row["category"],
                family=row["family"],
            )


def _size(split: Split) -> int:
    """Characters of all pairs: about what the folder needs."""
    pairs = (*split.train, *split.validation)
    return sum(len(p.chosen) + len(p.rejected) + sum(len(turn.content) for turn in p.prompt) for p in pairs)
