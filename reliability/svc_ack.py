"""S3: an event is acknowledged only after the disk has it: strace's order of calls over many requests.

python reliability/svc_ack.py --requests 200      (needs strace)
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ground import verdict

import httpx
from svc_kill import draft

from served import Served

_CALLS = "fsync,fdatasync,write,writev,sendto,sendmsg"
_SYNCED = re.compile(r"\b(?:fsync|fdatasync)(?:\(\d+\)| resumed>.*) += 0")
_ANSWERED = re.compile(r"\b(?:write|writev|sendto|sendmsg)\(.*HTTP/1\.1 (\d+)")


def traced(served: Served, requests: int, path: str, out: Path) -> list[str]:
    """What strace saw while `requests` were made one after another: a POST of a new event each, or a GET of `path`."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-s", "24", "-o", str(out), "-p", str(served.process.pid), "-e", f"trace={_CALLS}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    tracer.stderr.readline()  # "attached"
    key = served.keys["write"] if path == "/v1/events" else served.keys["admin"]
    with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
        for at in range(requests):
            answer = http.post(path, content=draft(f"ack-{at}")) if path == "/v1/events" else http.get(path)
            assert answer.status_code == 200, answer.text
    tracer.terminate()
    tracer.wait(timeout=30)
    return out.read_text(errors="replace").splitlines()


def after_the_disk(lines: list[str]) -> tuple[int, int]:
    """(answers of 200 with a finished fsync or fdatasync since the answer before, all answers of 200)."""
    synced, good, answers = False, 0, 0
    for line in lines:
        if _SYNCED.search(line):
            synced = True
        elif (found := _ANSWERED.search(line)) and found[1] == "200":
            answers += 1
            good += synced
            synced = False
    return good, answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    asked = parser.parse_args()
    if shutil.which("strace") is None:
        print("S3 acknowledged after the disk: skipped, strace is not installed")
        return 0
    with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch) / "events") as served:
        good, answers = after_the_disk(traced(served, asked.requests, "/v1/events", Path(scratch) / "events.txt"))
        read, reads = after_the_disk(traced(served, 20, "/v1/rollups", Path(scratch) / "reads.txt"))
    print(f"{good} of {answers} acknowledgements after fdatasync; {read} of {reads} answers to a reader", flush=True)
    # A reader's answer waits for no disk: the check would see an acknowledgement that does not.
    return verdict(
        "S3 acknowledged after the disk", good if read <= 2 and reads == 20 else 0, asked.requests, "requests"
    )


if __name__ == "__main__":
    sys.exit(main())
