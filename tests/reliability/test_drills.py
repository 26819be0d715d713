"""The short form of each drill in `reliability/`; `make reliability` runs the long ones."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "reliability"


def _short_forms() -> list[str]:
    sys.path.insert(0, str(ROOM))
    spec = importlib.util.spec_from_file_location("short_drills", ROOM / "short.py")
    assert spec is not None
    assert spec.loader is not None
    short = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(short)
    sys.path.remove(str(ROOM))
    return [*short.DRILLS, *short.CONTRAST]


NAMES = _short_forms()


@pytest.mark.parametrize("name", NAMES)
def test_a_drill_is_passed_and_a_plain_save_fails_its_own(name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOM / "short.py"), name]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{name} did not end in {late.timeout:.0f} s; it had said: {late.stdout!r} {late.stderr!r}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_drill_has_a_short_form_and_a_place_in_make() -> None:
    drills = {file.stem for file in ROOM.glob("*.py")} - {"ground", "tiny", "plain", "short"}
    rules = (ROOM.parent / "Makefile").read_text()
    assert not [name for name in drills if f"reliability/{name}.py" not in rules]
    # Two need a quiet machine; the others have their short forms in tests of the registry, the gate and the alarms.
    elsewhere = {"save_cost", "svc_load", "registry_kill", "gate_drill", "alarm_drill", "late_outcomes", "svc_detect"}
    assert not drills - elsewhere - set(NAMES)
