"""Where the drills find the sources and the tests' helpers, and how they end."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "model"), str(ROOT / "tests" / "training")]
sys.path += [str(ROOT / "tests" / "lifecycle"), str(ROOT / "tests" / "service"), str(ROOT / "tests" / "data")]


def verdict(name: str, good: int, of: int, rest: str) -> int:
    """Print a drill's figure as its last line; the exit code."""
    print(f"{name}: {good} of {of} {rest}", flush=True)
    return 0 if good == of else 1


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB; raises CalledProcessError where none can be mounted."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
