"""A registry of models that are as far as it and the page look at them: a file each, and a manifest with all its facts."""

from pathlib import Path
from typing import Any

from evenhand.lifecycle.manifest import write_manifest
from evenhand.lifecycle.registry import Decision, Registry, add, promote

OVERRULE = "a test"


def facts(name: str) -> dict[str, Any]:
    """What a manifest states of a run, with the shapes of `lifecycle.provenance`."""
    accuracy = {"value": 0.7, "n": 400, "low": 0.65, "high": 0.75}
    return {
        "name": name,
        "step": 120,
        "kinds": ["adapter"],
        "base": {"name": "builtin:smollm2-135m", "sha256": "b" * 64},
        "recipe": {"name": name, "objective": {"name": "simpo", "beta": 2.0, "margin": 0.5}},
        "data": {
            "hash": "d" * 64,
            "rows_in": 4000,
            "rows_used": 3600,
            "refused": {"tie": 400},
            "parents": {"sources": [{"name": "pairs.jsonl", "rows": 4000, "sha256": "5" * 64}], "origin": "Harbor"},
        },
        "code": {"evenhand": "0.1.0", "source_sha256": "c" * 64},
        "seeds": {"training": 0, "split": 0},
        "results": {"before": None, "after": {"pairwise_accuracy": accuracy}, "differences": None, "verdict": "better"},
    }


def shipped(folder: Path, name: str, /, **changes: Any) -> Path:
    """A folder as `evenhand export` leaves it, but for the weights."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(name.encode() * 20)
    (folder / "README.md").write_text(f"# {name}\n\nA card.\n")
    write_manifest(folder, facts(name) | changes)
    return folder


def registry_of(place: Path, *names: str, when: str = "2026-11-21T00:00:00+00:00") -> Path:
    """A registry in which these models went into production one after the other."""
    registry = Registry(str(place / "registry"))
    for name in names:
        add(registry, shipped(place / name, name), name, Decision("ann", when, ""))
        promote(registry, name, None, Decision("ann", when, "a release"), OVERRULE)
    return place / "registry"
