"""Where the model in production comes from, by its manifest: settings, data and its hash, sources, base, code, results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.errors import UserError
from evenhand.figure import figure
from evenhand.lifecycle.manifest import manifest_hash, read_manifest

_LONGEST_CARD = 40_000


@dataclass(frozen=True, slots=True)
class Lineage:
    """A model's name, the steps from what ships back to the data, each a title and its facts; its card; what is wrong."""

    name: str
    steps: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    card: str
    problem: str | None = None


def lineage(folder: Path) -> Lineage:
    """The lineage of what `evenhand export` wrote to `folder`; a folder that cannot be read says why."""
    try:
        manifest = read_manifest(folder)
        steps = tuple((title, tuple(rows)) for title, rows in _steps(folder, manifest))
        card = folder / "README.md"
        return Lineage(str(manifest["name"]), steps, _beginning(card) if card.is_file() else "")
    except (UserError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        return Lineage(folder.name, (), "", f"{folder} cannot be read as an exported model: {error}")


def _steps(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
    yield "Model", _model(folder, manifest)
    yield "Training", _training(manifest)
    yield "Data", _data(manifest["data"])
    yield "Base and code", _origin(manifest)


def _model(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "manifest", manifest_hash(folder)
    yield "kind", ", ".join(map(str, manifest.get("kinds") or ())) or "not recorded"
    for name, when in (("before", "before training"), ("after", "after training")):
        accuracy = ((manifest.get("results") or {}).get(name) or {}).get("pairwise_accuracy")
        yield f"pairwise accuracy {when}", figure(accuracy).words() if accuracy else "not measured"
    verdict = (manifest.get("results") or {}).get("verdict")
    yield "verdict", str(verdict.get("word") if isinstance(verdict, Mapping) else verdict or "none")


def _training(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    objective = manifest["recipe"]["objective"]
    yield "recipe", str(manifest["recipe"].get("name"))
    yield from ((key, str(value)) for key, value in objective.items() if value is not None)
    yield "step", str(manifest.get("step"))
    yield from ((f"{key} seed", str(value)) for key, value in (manifest.get("seeds") or {}).items())


def _data(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "hash", str(data["hash"])
    yield "rows in, used", f"{data.get('rows_in')}, {data.get('rows_used')}"
    refused = data.get("refused") or {}
    yield "refused", ", ".join(f"{reason} {count}" for reason, count in refused.items()) or "none recorded"
    parents = data.get("parents") or {}
    for source in parents.get("sources", ()):
        yield f"source {source['name']}", f"{source['rows']} rows, {source['sha256']}"
    yield from ((key, str(parents[key])) for key in ("origin", "licence") if parents.get(key))


def _origin(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    base = manifest["base"]
    yield "base", str(base["name"])
    yield from ((key, str(value)) for key, value in base.items() if key != "name" and isinstance(value, str))
    yield from ((key, str(value)) for key, value in (manifest.get("code") or {}).items())


def _beginning(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as card:
        return card.read(_LONGEST_CARD)
