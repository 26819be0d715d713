"""What `evenhand audit` takes for files of different sizes: seconds, processor time, memory, and the cost of a row.

python benchmarks/audit.py --rows 10000 100000 --rounds 3      (1000000 needs 2.3 GB of disk, twice as much in TMPDIR)

Made-up judgments of about 2.1 KB by twelve annotators. Sizes are measured by turns, each time in a process of its own; medians are
told, and the cost of a row beside that of the first size.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from machine import describe

ANNOTATORS, CATEGORIES, VOCABULARY = 12, 6, 6000
PROMPT_WORDS, ANSWER_WORDS = (15, 80), (60, 180)
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Took:
    """One audit: seconds by the clock, seconds of processors, and the most memory that all its processes held at once."""

    seconds: float
    processor: float
    memory: int


def lines(rows: int, seed: int) -> Iterator[str]:
    """Judgments as JSON, each unlike all others; every annotator is right four times of five."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(VOCABULARY)]

    def text(bounds: tuple[int, int]) -> str:
        return " ".join(draw.choices(words, k=draw.randint(*bounds))).capitalize() + "."

    for row in range(rows):
        right = draw.random() < 0.8
        yield json.dumps(
            {
                "id": f"j{row}",
                "prompt": text(PROMPT_WORDS),
                "answer_a": text(ANSWER_WORDS),
                "answer_b": text(ANSWER_WORDS),
                "verdict": "a" if right == (row % 2 == 0) else "b",
                "annotator": f"annotator-{draw.randrange(ANNOTATORS)}",
                "category": f"category-{draw.randrange(CATEGORIES)}",
            }
        )


def write(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines(rows, seed=rows))


def audit(path: Path, workers: int) -> Took:
    """Run the command in a process of its own; its processes' memory is looked at ten times a second."""
    command = [sys.executable, "-m", "evenhand", "audit", str(path), "--json", "--quiet", "--workers", str(workers)]
    began, most = time.perf_counter(), 0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        most = max(most, held(child.pid))
        time.sleep(_POLL_SECONDS)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} did not end well")
    return Took(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, most)


def held(pid: int) -> int:
    """Resident bytes of a process and its children."""
    total = 0
    with suppress(OSError):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(held(int(own)) for own in (task / "children").read_text().split())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="as the command's own: 0 is as many as pay")
    asked = parser.parse_args()
    took: dict[int, list[Took]] = {rows: [] for rows in asked.rows}
    with tempfile.TemporaryDirectory() as scratch:
        files = {rows: Path(scratch) / f"{rows}.jsonl" for rows in asked.rows}
        for rows, path in files.items():
            write(path, rows)
        for _ in range(asked.rounds):
            for rows, path in files.items():
                took[rows].append(audit(path, asked.workers))
        sizes = {rows: path.stat().st_size for rows, path in files.items()}
    machine = describe(torch.device("cpu"))
    print(
        f"{machine['processor']}, {machine['cores']} cores, load {os.getloadavg()[0]:.1f}; median of {asked.rounds} (least to most)"
    )
    print("| rows | file, MB | seconds | processor, s | memory, MiB | processor a row, of the first |")
    print("|---|---|---|---|---|---|")
    first = asked.rows[0]
    each = {rows: median(own.processor for own in found) / rows for rows, found in took.items()}
    for rows, found in took.items():
        seconds = sorted(own.seconds for own in found)
        print(
            f"| {rows:,} | {sizes[rows] / 1e6:.0f} | {median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f}) "
            f"| {each[rows] * rows:.1f} | {max(own.memory for own in found) / 2**20:.0f} | {each[rows] / each[first]:.2f} |"
        )


if __name__ == "__main__":
    main()
