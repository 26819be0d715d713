"""A CycloneDX 1.6 bill of materials for a model: what it was made of, for tools that collect such bills."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from evenhand.files import canonical_json, sha256, sha256_file
from evenhand.lifecycle.card import task_of
from evenhand.lifecycle.manifest import entries


def bill_of_materials(facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The ML-BOM of what lies in `folder`: the model with its files, its base, its data and the libraries used.

    The serial number follows from the content, so that the same export has the same bill.
    """
    files = [
        {"type": "file", "name": path, "hashes": [_hash(sha256_file(folder / path))]}
        for path in sorted(entries(folder))
    ]
    base, data, code = facts["base"], facts["data"], dict(facts["code"])
    parts = [
        {
            "type": "machine-learning-model",
            "bom-ref": "base",
            "name": base["name"],
            **({"version": base["revision"]} if base["revision"] else {}),
            "hashes": [_hash(base["sha256"])],
            "description": "The model that training started from; the hash is over its weights and configuration.",
        },
        {
            "type": "data",
            "bom-ref": "data",
            "name": f"{facts['name']} preference pairs",
            "data": [{"type": "dataset", "name": "preference pairs"}],
            "hashes": [_hash(data["hash"])],
        },
        *(
            {"type": "library", "bom-ref": f"pkg:pypi/{name}@{code[name]}", "name": name, "version": code[name],
             "purl": f"pkg:pypi/{name}@{code[name]}"}
            for name in sorted(code) if name != "source_sha256"
        ),
    ]  # fmt: skip
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _model(facts, files)},
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]}],
    }
    return {"serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, sha256(canonical_json(content)))}", **content}


def _model(facts: Mapping[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
    objective = facts["recipe"]["objective"]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": facts["name"],
        "components": files,
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": task_of(facts),
                "datasets": [{"ref": "data"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(facts)},
        },
        "properties": [
            {"name": "evenhand:objective", "value": str(objective["name"])},
            *(
                {"name": f"evenhand:{key}", "value": str(objective[key])}
                for key in ("beta", "margin")
                if key in objective
            ),
            {"name": "evenhand:step", "value": str(facts["step"])},
        ],
    }


def _metrics(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    after = (facts["results"] or {}).get("after") or {}
    found = []
    for name in ("pairwise_accuracy", "length_balanced_accuracy"):
        figure = after.get(name) or {}
        if figure.get("value") is None:
            continue
        metric: dict[str, Any] = {"type": name, "value": str(figure["value"]), "slice": f"n={figure['n']}"}
        if figure.get("low") is not None:
            bounds = {"lowerBound": str(figure["low"]), "upperBound": str(figure["high"])}
            metric["confidenceInterval"] = bounds
        found.append(metric)
    return found


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
