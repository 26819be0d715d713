"""What makes a drill a command: its options are its function's, its last line is its figure, and it exits with 1 where
that is not what was promised."""

import argparse
import inspect
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class Figure:
    """What a drill found, in the words of its last line, and whether that is what was promised."""

    words: str
    held: bool

    @classmethod
    def count(cls, name: str, good: int, of: int, rest: str) -> "Figure":
        """So many of so many, where all is what was promised."""
        return cls(f"{name}: {good} of {of} {rest}", good == of)


# Drills take a folder to work in, and numbers and flags with defaults.
Drill = Callable[..., Figure]


def held(drill: Drill, **options: Any) -> bool:
    """Run a drill in a folder of its own and print its figure; whether what was promised held."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVENHAND_SCRATCH")) as scratch:
        figure = drill(Path(scratch), **options)
    print(figure.words, flush=True)
    return figure.held


def command(drill: Drill) -> NoReturn:
    """Run a drill with the options of the command line, `--name` for each argument after the folder."""
    described = inspect.getmodule(drill)
    parser = argparse.ArgumentParser(
        description=described and described.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, argument in list(inspect.signature(drill).parameters.items())[1:]:
        kind: dict[str, Any] = (
            {"action": "store_true"} if argument.default is False else {"type": type(argument.default)}
        )
        parser.add_argument(f"--{name.replace('_', '-')}", default=argument.default, **kind)
    sys.exit(0 if held(drill, **vars(parser.parse_args())) else 1)
