"""Every request to a model behind an endpoint and what came back, one JSON line each, appended and never rewritten."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evenhand.errors import DataError
from evenhand.files import canonical_json, held, sha256, storage_error


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: the reply, or None and why; `attempts` counts every try, `seconds` the last one.

    `leading` has the probabilities of candidates for the reply's first token, None where they were not told. `cut` tells that
    the reply had not ended when the limit of tokens was reached.
    """

    text: str | None
    attempts: int
    seconds: float
    error: str | None = None
    leading: Mapping[str, float] | None = None
    cut: bool = False

    def json(self) -> dict[str, Any]:
        """The answer's part of a line."""
        leading = {} if self.leading is None else {"leading": dict(self.leading)}
        told = {"reply": self.text, "error": self.error, "attempts": self.attempts, "seconds": round(self.seconds, 3)}
        return told | leading | ({"cut": True} if self.cut else {})


def request_key(request: Mapping[str, Any]) -> str:
    """What names a request: the hash of all that was asked, so that the same question is never paid for twice."""
    return sha256(canonical_json(request))


class Transcript:
    """An append-only file of requests and answers; opened by `transcript`, it knows the replies that it holds."""

    def __init__(self, path: Path, file: IO[bytes], replies: dict[str, Answer]) -> None:
        self._path, self._file, self._replies = path, file, replies

    def reply(self, key: str) -> Answer | None:
        """The reply to the request of that key from before, None where there is none; a failure is no reply."""
        return self._replies.get(key)

    def keep(self, keyed: tuple[str, Mapping[str, Any]], answer: Answer, time: str) -> None:
        """Append one request, with its key, and its answer, on the disk before this returns; raises StorageError on a
        full disk."""
        key, request = keyed
        line = canonical_json({"key": key, "time": time, "request": dict(request), **answer.json()}) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(error, self._path, len(line)) from error
        if answer.text is not None:
            self._replies[key] = answer


@contextmanager
def transcript(path: Path) -> Iterator[Transcript]:
    """The transcript at `path`, new or continued; raises UserError where another process writes it.

    A line that a kill cut short is left as it is and asked again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file, held(path):
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            file.write(b"\n")
        yield Transcript(path, file, dict(_replies(path, content)))


def _replies(path: Path, content: bytes) -> Iterator[tuple[str, Answer]]:
    lines = content.split(b"\n")
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut short, or empty
            continue
        if not isinstance(row, dict) or "request" not in row or "reply" not in row:
            raise DataError(f"{path} is no transcript of a judge ({line[:60]!r}); choose another file.")
        if isinstance(row["reply"], str):
            made = (int(row["attempts"]), float(row["seconds"]))
            yield (
                request_key(row["request"]),
                Answer(row["reply"], *made, leading=row.get("leading"), cut=bool(row.get("cut"))),
            )
