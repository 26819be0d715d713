"""What a person and a program see: words and progress on stderr, results on stdout, errors as one sentence."""

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from evenhand.figure import figure

_PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


@dataclass(slots=True)
class Output:
    """One command's output. `as_json` keeps stdout for one JSON object; `quiet` keeps stderr for errors."""

    as_json: bool = False
    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    _stage: str = ""
    _began: float = 0.0
    _shown: float = 0.0

    def say(self, sentence: str) -> None:
        """A sentence for the person who waits."""
        if not self.quiet:
            self._clear()
            self.console.print(escape(sentence))

    def result(self, value: dict[str, Any], words: str) -> None:
        """The command's answer: as JSON on stdout, or in words."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            sys.stdout.write(words + "\n")
        sys.stdout.flush()

    def narrate(self, what: str, done: int, total: int) -> None:
        """Progress of a stage: rate and time left, on one line in a terminal, as plain lines in a log."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._began, self._shown = what, now, 0.0
        seconds = now - self._began
        rate = done / seconds if seconds > 0.5 else None
        left = f", {clock((total - done) / rate)} left" if rate and done < total else ""
        speed = f", {rate:.2f}/s" if rate else ""
        self._line(f"{what}: {done}/{total}{speed}{left}", now, done >= total)

    def step(self, record: dict[str, Any], steps: int) -> None:
        """A training step's line."""
        now = time.monotonic()
        done = record["step"]
        if "skipped" in record:
            self.say(f"step {done}/{steps} is skipped: {record['skipped']}")
            return
        if "reward" in record:
            self._practised(record, steps, now)
            return
        left = clock((steps - done) * record["seconds"] / done)
        # Without pairs there is neither accuracy nor gap.
        compared = f"accuracy {record['accuracy']:.2f}, gap {record['gap']:+.3f}, " if "accuracy" in record else ""
        line = (
            f"step {done}/{steps}: loss {record['loss']:.4f}, {compared}"
            f"{record['pairs_per_second']:.2f} pairs/s, {left} left"
        )
        self._stage = ""
        if "note" in record:
            self.say(f"step {done}: {record['note']}")
        self._line(line, now, done >= steps or "validation" in record)
        validation = record.get("validation")
        if validation:
            accuracy = figure(validation["pairwise_accuracy"]).words()
            self.say(f"validation after step {done}: loss {validation['loss']:.4f}, pairwise accuracy {accuracy}")

    def _practised(self, record: dict[str, Any], steps: int, now: float) -> None:
        """The line of a step that learned from drawn replies."""
        done = record["step"]
        self._stage = ""
        line = (
            f"step {done}/{steps}: reward {record['reward']:.3f}, {_distance(record)}"
            f"clipped {record['clip_fraction']:.2f}, {record['pairs_per_second']:.2f} replies/s, "
            f"{clock((steps - done) * record['seconds'] / done)} left"
        )
        self._line(line, now, done >= steps)

    def _line(self, text: str, now: float, last: bool) -> None:
        if self.quiet:
            return
        if self.console.is_terminal:
            self.console.file.write(f"\r\x1b[2K{text[: self.console.width - 1]}" + ("\n" if last else ""))
            self.console.file.flush()
        elif last or now - self._shown >= _PLAIN_SECONDS:
            self._shown = now
            self.console.print(escape(text))

    def _clear(self) -> None:
        if self.console.is_terminal:
            self.console.file.write("\r\x1b[2K")


def _distance(record: dict[str, Any]) -> str:
    """How far the replies' model is from the start, where it was measured: in all of a reply, or per token."""
    if record.get("kl") is not None:
        return f"{record['kl']:.2f} nats from the start, "
    return "" if record.get("token_kl") is None else f"{record['token_kl']:.3f} nats per token from the start, "


def clock(seconds: float) -> str:
    """A length of time as a person says it.

    >>> clock(42), clock(200), clock(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
