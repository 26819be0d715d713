"""`evenhand monitor` as a process on loopback: started, asked, killed and started again, for tests and drills."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import httpx


class Served:
    """One folder of events, or a database's URL, and the process that serves it while it runs."""

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.keys, self.port = folder, options, {}, free_port()
        self.ready_seconds = 0.0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "evenhand", "monitor", "--folder", str(self.folder), *self.options, *words]

    def start(self) -> None:
        """Start the process and wait until it answers; `ready_seconds` is how long that took."""
        began = time.monotonic()
        line = self.command("--port", str(self.port), "--json")
        self.process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
        )
        self.started.append(self.process)
        self.keys |= json.loads("".join(iter(self.process.stdout.readline, "}\n")) + "}")["keys"]
        while time.monotonic() < began + 60:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200:
                    self.ready_seconds = time.monotonic() - began
                    return
            time.sleep(0.01)
        raise AssertionError("the service did not answer within 60 seconds")

    def ask(self, method: str, path: str, key: str | None = None, **given) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(
            method, self.url + path, headers=headers | given.pop("headers", {}), trust_env=False, timeout=30, **given
        )

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def memory_mib(self) -> float:
        """The process's resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
