"""Trains the tiny Llama of the loop's tests in a process of its own, which a signal then ends: `FOLDER STEP SIGNAL [DROPOUT]`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))

from small_training import run, settings

from evenhand.errors import EvenhandError
from evenhand.model.adapter import Adapter
from evenhand.training.loop import Hooks


def main(folder: Path, step: int, number: int, dropout: float | None) -> None:
    """Send this process the signal after `step`, where the journal has its line and no checkpoint has been made."""

    def report(record: dict[str, Any], _: int) -> None:
        if record["step"] == step:
            os.kill(os.getpid(), number)

    adapter = None if dropout is None else Adapter(4, 8.0, dropout)
    try:
        run(folder, settings(), Hooks(report=report), adapter)
    except EvenhandError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), signal.Signals[sys.argv[3]], float(sys.argv[4]) if sys.argv[4:] else None)
