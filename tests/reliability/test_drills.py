"""The short form of each drill in `reliability/`; `make reliability` runs the long ones."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
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


@pytest.mark.parametrize("name", NAMES)
def test_a_drill_is_passed_and_a_plain_save_fails_its_own(name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOM / "short.py"), name]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{name} did not end in {late.timeout:.0f} s; it had said: {late.stdout!r} {late.stderr!r}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_drill_has_a_short_form_and_a_long_one() -> None:
    drills = {file.stem for file in ROOM.glob("*.py")} - {"ground", "tiny", "plain", "short", "long"}
    assert drills == LONG.TRAINING.keys() | LONG.WATCHING.keys()
    assert drills >= LONG.ALONE
    # Two need a quiet machine; the others have their short forms in tests of the registry, the gate and the alarms.
    elsewhere = {"save_cost", "svc_load", "registry_kill", "gate_drill", "alarm_drill", "late_outcomes", "svc_detect"}
    assert not drills - elsewhere - set(NAMES)
