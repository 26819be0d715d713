"""D2: 1,000 files of drawn rows, audited by the command: every row is used or refused by name, and nothing ends in a traceback.

python reliability/accounting.py --files 1000

Rows are drawn from the catalogue of bad input and from sound rows, and some are then torn, doubled, or have bytes changed; files are JSONL,
JSON arrays, CSV, gzip, or have no suffix.
"""

import argparse
import gzip
import io
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from ground import verdict  # first, since it finds the sources

from catalogue import CHAT, PLAIN, good

from evenhand.cli.main import app
from evenhand.errors import EvenhandError

BAD = [row for rows in (*PLAIN.values(), *CHAT.values()) for row, _ in rows if len(row) < 20_000]
SUFFIXES = (".jsonl", ".jsonl", ".json", ".csv", ".jsonl.gz", "")


def draw_row(draw: random.Random) -> bytes:
    """A sound row, one of the catalogue, or either of them damaged."""
    sound = json.dumps(good(prompt=f"Where is {draw.random()}?")).encode()
    row = sound if draw.random() < 0.5 else draw.choice(BAD)
    match draw.randrange(8):
        case 0:
            return row[: draw.randrange(len(row) + 1)]
        case 1:
            at = draw.randrange(len(row) + 1)
            return row[:at] + draw.randbytes(draw.randrange(4)) + row[at + 1 :]
        case 2:
            return row + row
    return row


def draw_file(draw: random.Random, folder: Path, at: int) -> Path:
    """One file of at most 30 rows; a CSV's rows are texts between commas, quoted or not."""
    suffix = draw.choice(SUFFIXES)
    rows = [draw_row(draw) for _ in range(draw.randrange(31))]
    match suffix:
        case ".json":
            content = b"[" + b",\n".join(rows) + draw.choice([b"]", b"]", b""])
        case ".csv":
            content = b"\n".join([b"prompt,chosen,rejected", *(row.replace(b": ", b",") for row in rows)])
        case _:
            content = draw.choice([b"\n", b"\n", b"\r\n", b"\n\n"]).join(rows) + draw.choice([b"", b"\n"])
    path = folder / f"rows{at}{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".jsonl.gz" else content)
    return path


def audit(path: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `evenhand audit PATH --json --strict`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = app(["audit", str(path), "--json", "--strict", "--workers", "1"], standalone_mode=False) or 0
        except EvenhandError as error:
            err.write(f"error: {error}\n")
            code = error.exit_code
    return code, out.getvalue(), err.getvalue()


def wrong(path: Path) -> tuple[int, str | None]:
    """The exit code, and what is not as promised, if anything. What the command does not expect is raised here."""
    code, out, err = audit(path)
    if code == 2:
        lines = err.splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        if len(told) != 1 or str(path) not in told[0] or out:
            return code, f"refused without one sentence that names the file: {err!r}"
        return code, None
    if code not in (0, 1):
        return code, f"exit code {code}"
    found = json.loads(out)
    if found["rows_in"] != found["rows_used"] + sum(found["refused"].values()):
        return code, f"{found['rows_in']} rows in, {found['rows_used']} used, refused {found['refused']}"
    return code, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, codes, good_files = random.Random(asked.seed), Counter[int](), 0
    with tempfile.TemporaryDirectory() as scratch:
        for at in range(asked.files):
            path = draw_file(draw, Path(scratch), at)
            code, what = wrong(path)
            codes[code] += 1
            good_files += what is None
            if what is not None:
                print(f"{path.name}: {what}", flush=True)
            path.unlink()
    print(f"exit codes: {dict(sorted(codes.items()))}")
    # Draws that were all refused whole would have tested no sum.
    if not all(codes[code] >= asked.files // 20 for code in (0, 1, 2)):
        print("not every exit code was seen often enough")
        return 1
    return verdict("D2 accounting", good_files, asked.files, "files add up or are refused in one sentence")


if __name__ == "__main__":
    sys.exit(main())
