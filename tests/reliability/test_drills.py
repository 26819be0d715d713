"""The short form of each drill in `reliability/`; `make reliability` runs the long ones."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from types import ModuleType

import pytest

ROOM = Path(__file__).parents[2] / "reliability"


def _lists(name: str) -> ModuleType:
    """`reliability/NAME.py`, which lists drills."""
    sys.path.insert(0, str(ROOM))
    spec = importlib.util.spec_from_file_location(f"{name}_drills", ROOM / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # where its dataclasses look for their annotations
    spec.loader.exec_module(found)
    sys.path.remove(str(ROOM))
    return found


SHORT, LONG = _lists("short"), _lists("long")
NAMES = [*SHORT.DRILLS, *SHORT.CONTRAST]


@pytest.fixture(scope="session")
def drills() -> Iterator["subprocess.Popen[str]"]:
    """One process that imports what drills need and does those that it is asked for, each in a fork."""
    command = [sys.executable, str(ROOM / "forks.py"), "--asked"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        process.communicate()


@pytest.mark.parametrize("name", NAMES)
def test_a_drill_is_passed_and_a_plain_save_fails_its_own(
    name: str, drills: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    assert drills.stdin is not None
    assert drills.stdout is not None
    said = tmp_path / "said"
    drills.stdin.write(f"{name}\t{said}\n")
    drills.stdin.flush()
    assert drills.stdout.readline() == "1\n", said.read_text(encoding="utf-8")[-6000:]


def test_every_drill_has_a_short_form_and_a_long_one() -> None:
    drills = {file.stem for file in ROOM.glob("*.py")} - {"ground", "tiny", "plain", "short", "long", "forks"}
    assert drills == LONG.TRAINING.keys() | LONG.WATCHING.keys()
    assert drills >= LONG.ALONE
    # Two need a quiet machine; the others have their short forms in tests of the registry, the gate and the alarms.
    elsewhere = {"save_cost", "svc_load", "registry_kill", "gate_drill", "alarm_drill", "late_outcomes", "svc_detect"}
    assert not drills - elsewhere - set(NAMES)
