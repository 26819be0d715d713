"""From event to judgment to data hash to model, and back: which pairs rest on which events, and which must go."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.data.snapshot import Snapshot, ledger_rows, read_snapshot
from evenhand.errors import UserError
from evenhand.files import sha256_file
from evenhand.lifecycle.manifest import read_manifest
from evenhand.service.flywheel.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Lineage:
    """The pairs of a data set with the events that each rests on, and what of it does not hold.

    `pairs` gives each pair's id its events, none where they are unknown; `erased` the pairs that rest on an event that
    was erased since; `problems` says in words what does not fit together. `data` is the content hash, `collection` the
    hash of the collection as it lies there now.
    """

    collection: str
    data: str | None
    model: str | None
    pairs: Mapping[str, tuple[str, ...]]
    erased: tuple[str, ...]
    problems: tuple[str, ...]

    def json(self, event: str | None) -> dict[str, Any]:
        """For `--json`: with `event`, the pairs that rest on it."""
        traced = sum(bool(events) for events in self.pairs.values())
        found = {} if event is None else {"event": event, "rests_on_it": self.resting_on(event)}
        return found | {
            "collection": self.collection,
            "data": self.data,
            "model": self.model,
            "pairs": len(self.pairs),
            "traced": traced,
            "erased": list(self.erased),
            "problems": list(self.problems),
        }

    def resting_on(self, event: str) -> list[str]:
        """The ids of the pairs that an event is behind."""
        return sorted(name for name, events in self.pairs.items() if event in events)


def trace(collected: Path, data: Path | None, model: Path | None) -> Lineage:
    """The lineage of a collection, or of the data set curated from it, or of the model trained on that.

    Raises UserError where the collection cannot be read, DataError where the data set is not what was written.
    """
    shelf = Shelf.at(collected)
    if (found := shelf.read()) is None:
        raise UserError(f"{shelf.record} is not there; give a folder or file that `evenhand collect` wrote.")
    record, rows = found
    events = {row["id"]: tuple(row["events"]) for row in rows if "release" not in row}
    problems = _changed_files(shelf, record)
    if data is None:
        return Lineage(record["hash"], None, None, events, (), tuple(problems))
    snapshot = read_snapshot(data)
    judgments = _judgments_behind(snapshot)
    gone = {name: tuple(ids) for name, ids in record["erased"].items()}
    pairs = {name: _events(own, events | gone) for name, own in judgments.items()}
    erased = tuple(sorted(name for name, own in judgments.items() if any(one in gone for one in own)))
    problems += _problems(shelf, snapshot, data, pairs, erased)
    name = None
    if model is not None:
        manifest = read_manifest(model)
        name = str(manifest.get("name"))
        if (manifest.get("data") or {}).get("hash") != snapshot.hash:
            problems.append(f"{model} was trained on other data than {data}")
    return Lineage(record["hash"], snapshot.hash, name, pairs, erased, tuple(problems))


def _changed_files(shelf: Shelf, record: Mapping[str, Any]) -> list[str]:
    """The files of a collection that are not as they were written."""
    folder = shelf.record.parent
    return [
        f"{folder / name} was changed after it was collected"
        for name, want in record["files"].items()
        if sha256_file(folder / name) != want
    ]


def _judgments_behind(snapshot: Snapshot) -> dict[str, list[str]]:
    """The judgments that each pair of a data set is made of, by its ledger."""
    behind: dict[str, list[str]] = defaultdict(list)
    for row in ledger_rows(snapshot.folder):
        if row["outcome"] == "kept":
            behind[row["pair"]].append(row["id"])
    return {pair.id: behind[pair.id] for pair in (*snapshot.train, *snapshot.validation)}


def _events(judgments: Sequence[str], known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(event for name in judgments for event in known.get(name, ())))


def _problems(
    shelf: Shelf, snapshot: Snapshot, data: Path, pairs: Mapping[str, tuple[str, ...]], erased: Sequence[str]
) -> list[str]:
    """What does not fit between a data set and the collection as it lies there now."""
    problems = []
    if erased:
        problems.append(f"{len(erased)} pairs of {data} rest on erased events: curate and train again")
    elif sha256_file(shelf.judgments) not in {own["sha256"] for own in snapshot.dataset["parents"]["sources"]}:
        problems.append(f"{data} was not curated from {shelf.judgments} as it is now")
    if unknown := sum(not events for events in pairs.values()):
        problems.append(f"{unknown} of {len(pairs)} pairs have no event in this collection")
    return problems
