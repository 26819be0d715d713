"""Kill promotions of a registry at random moments, and let several promote at once.

    python reliability/registry_kill.py --kills 100 --races 20 --seed 5

After every kill the log must be whole, every decision that was acknowledged must be in it, and production must be one of
the candidates. In every race of eight promotions on gates against one incumbent exactly one must win. Prints one JSON object; exit 1
where a promise was broken.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evenhand.errors import EvenhandError
from evenhand.lifecycle.manifest import write_manifest
from evenhand.lifecycle.registry import Decision, Registry, add, model_problems, promote, read_log, rollback, state_of

NOW = Decision("drill", "2026-01-01T00:00:00+00:00", "drill")
RACERS = 8


def model(folder: Path, name: str) -> Path:
    """A folder as an export writes it, in the parts that a registry looks at."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(random.Random(name).randbytes(20_000))
    write_manifest(folder, {"name": name})
    return folder


def filled(place: Path, count: int) -> Registry:
    """A registry with `count` candidates, the first of them in production."""
    registry = Registry(str(place))
    for i in range(count):
        folder = model(place.parent / f"{place.name}-shipped-{i}", f"m{i}")
        add(registry, folder, f"m{i}", NOW)
        shutil.rmtree(folder)
    promote(registry, "m0", None, NOW, "the first one")
    return registry


def gate(registry: Registry, name: str) -> dict[str, Any]:
    """A passed gate of `name` against what is in production."""
    state = state_of(read_log(registry))
    against = {"manifest_sha256": state.candidates[state.incumbent or ""]}
    candidate = {"manifest_sha256": state.candidates[name]}
    return {"passed": True, "checks": [], "candidate": candidate, "incumbent": against}


def kills(scratch: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Kill a process that adds, promotes and rolls back without end, `count` times; count what was found broken."""
    registry = filled(scratch / "kills", 3)
    broken = lost = inside = 0
    for turn in range(count):
        before = len(read_log(registry))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _decide_for_ever(registry, writer, scratch, turn)
        os.close(writer)
        time.sleep(draw.uniform(0.002, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = _lines(reader)
        try:
            log = read_log(registry)
            state = state_of(log)
            broken += state.incumbent not in state.candidates or bool(model_problems(registry, state))
            lost += len(log) - before < acknowledged
            inside += len(log) - before > acknowledged
        except EvenhandError:
            broken += 1
    return {"kills": count, "broken": broken, "lost": lost, "killed_after_the_entry": inside, "entries": len(log)}


def _decide_for_ever(registry: Registry, writer: int, scratch: Path, turn: int) -> None:
    folder = model(scratch / f"shipped-{turn}", f"t{turn}")
    for number in range(10_000):
        match number % 9:
            case 0:
                add(registry, folder, f"t{turn}-{number}", NOW)
            case 1 | 3 | 5 | 7:
                other = "m1" if state_of(read_log(registry)).incumbent != "m1" else "m2"
                promote(registry, other, gate(registry, other), NOW)
            case _:
                rollback(registry, NOW)
        os.write(writer, b"x")


def _lines(reader: int) -> int:
    total = 0
    while part := os.read(reader, 65536):
        total += len(part)
    os.close(reader)
    return total


def races(scratch: Path, count: int) -> dict[str, Any]:
    """Let eight processes promote eight candidates at one moment, `count` times; how many won each time."""
    winners = []
    for turn in range(count):
        registry = filled(scratch / f"race-{turn}", RACERS + 1)
        passed = {i: gate(registry, f"m{i}") for i in range(1, RACERS + 1)}
        start = time.time() + 0.05
        children = []
        for i, result in passed.items():
            child = os.fork()
            if child == 0:
                _race(registry, (f"m{i}", result), start)
            children.append(child)
        won = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
        state = state_of(read_log(registry))
        winners.append(won if len(state.promoted) == 2 and state.incumbent != "m0" else -1)
    return {"races": count, "racers": RACERS, "not_exactly_one_winner": sum(won != 1 for won in winners)}


def _race(registry: Registry, entry: tuple[str, dict[str, Any]], start: float) -> None:
    while time.time() < start:
        pass
    try:
        promote(registry, entry[0], entry[1], NOW)
    except EvenhandError:
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Run both drills and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--races", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        found = {"kill": kills(scratch, asked.kills, random.Random(asked.seed)), "race": races(scratch, asked.races)}
    print(json.dumps(found))
    bad = found["kill"]["broken"] + found["kill"]["lost"] + found["race"]["not_exactly_one_winner"]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
