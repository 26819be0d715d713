"""The short form of each drill in `reliability/`; `make reliability` runs the long ones."""

import os
import subprocess
import sys
from pathlib import Path

DRILLS = Path(__file__).parents[2] / "reliability"


def test_every_drill_is_passed_and_a_plain_save_fails_its_own() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRILLS / "short.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "short drills: 16 of 16 as they should be"


def test_every_drill_has_a_short_form_and_a_place_in_make() -> None:
    drills = {file.stem for file in DRILLS.glob("*.py")} - {"tiny", "plain", "short"}
    short, rules = (DRILLS / "short.py").read_text(), (DRILLS.parent / "Makefile").read_text()
    assert not [name for name in drills if f"reliability/{name}.py" not in rules]
    # One needs a quiet machine; two have their short forms in tests of the registry and of the gate.
    elsewhere = {"save_cost", "registry_kill", "gate_drill"}
    assert not [name for name in drills - elsewhere if f'"{name}"' not in short]
