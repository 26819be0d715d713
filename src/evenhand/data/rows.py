"""One row as a source gives it: its fields, or why it has none, and where it stands."""

import json
from dataclasses import dataclass
from typing import Any

from evenhand.data.reasons import Unusable

TEXT_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Row:
    """`fields` of a row that could be parsed, else the `problem`; `raw` is the beginning of its bytes, if any.

    `sha256` is of all its bytes, the end of the line included, None where the format has no bytes for a row alone.
    """

    file: str
    line: int | None
    raw: bytes
    fields: dict[str, Any] | None
    problem: Unusable | None = None
    sha256: str | None = None

    def beginning(self) -> str:
        """The row's first 500 characters, for a person to look at; what is not UTF-8 shows as U+FFFD."""
        if self.raw or self.fields is None:
            return self.raw.decode("utf-8", "replace")[:TEXT_SHOWN]
        text = json.dumps(self.fields, ensure_ascii=False, default=str)[:TEXT_SHOWN]
        return text.encode("utf-8", "replace").decode()
