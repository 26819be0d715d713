"""Prompts without an answer, for methods that draw answers themselves, read as pairs that lack both."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from evenhand.data.contest import Claims, Contest
from evenhand.data.conversation import Prompt, prompt_of, with_system
from evenhand.data.fields import Fields, present
from evenhand.data.kinds import KINDS, Kind
from evenhand.data.lines import Notes
from evenhand.data.pairwise import history_of, instruction_text
from evenhand.data.read import ROWS_LOOKED_AT
from evenhand.data.schema import Message
from evenhand.data.sources import source_rows


def _reader(prompt: Callable[[Fields], Prompt]) -> Callable[[Fields], Claims]:
    """An answer that is no text at all stands for the absent one."""
    return lambda fields: Claims(with_system(fields, prompt(fields)), (Contest("", "", "a"),))


def _instruction(fields: Fields) -> Prompt:
    return (*history_of(fields), Message("user", instruction_text(fields)))


PROMPTS = (
    Kind(
        "prompt", "prompts", {"prompt": (str, list)}, _reader(lambda row: prompt_of(present(row, "prompt"), "prompt"))
    ),
    Kind(
        "question",
        "prompts",
        {"question": (str,)},
        _reader(lambda row: prompt_of(present(row, "question"), "question")),
    ),
    Kind("instruction", "prompts", {"instruction": (str,)}, _reader(_instruction)),
)


def prompt_kind(source: str | Path) -> Kind | None:
    """The kind of prompts that a source holds; None where its rows are judgments or nothing known."""
    parsed = [row.fields for row in islice(source_rows(source, Notes()), ROWS_LOOKED_AT) if row.fields is not None]
    if any(kind.fits(fields) for fields in parsed for kind in KINDS):
        return None
    found = Counter(kind.name for fields in parsed for kind in PROMPTS if kind.fits(fields))
    return next((kind for kind in PROMPTS if kind.name in found), None)
