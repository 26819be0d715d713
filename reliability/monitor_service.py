"""A monitor in a process of its own, for the drills."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(slots=True)
class Service:
    """The running process, where it listens, and the keys of its first start."""

    process: subprocess.Popen[bytes]
    port: int
    keys: dict[str, str]
    ready_seconds: float

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(folder: Path, *options: str, port: int | None = None, before: tuple[str, ...] = ()) -> Service:
    """Start `evenhand monitor` on `folder`, and wait until it takes events."""
    port = port or free_port()
    command = [
        *before,
        sys.executable,
        "-m",
        "evenhand",
        "monitor",
        "--json",
        "--folder",
        str(folder),
        "--port",
        str(port),
    ]
    began = time.perf_counter()
    errors = (folder.parent / f"{folder.name}.log").open("ab")
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the monitor ended with {process.returncode}; see {errors.name}")
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
            break
        except httpx.HTTPError:
            time.sleep(0.02)
    ready = time.perf_counter() - began
    assert process.stdout is not None
    text = b""
    while not text.endswith(b"\n}\n"):
        text += process.stdout.readline()
    return Service(process, port, json.loads(text)["keys"], ready)
