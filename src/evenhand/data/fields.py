"""Checked access to the fields of one raw row: text stays text, and nothing is cast to fit."""

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from evenhand.data.reasons import Unusable

Fields = Mapping[str, Any]
JSON_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def type_name(value: object) -> str:
    """The type of a value in a user's words.

    >>> type_name([])
    'a list'
    """
    return JSON_NAMES.get(type(value), type(value).__name__)


def present(fields: Fields, name: str) -> Any:
    """The value of a field that must be there; Unusable (missing_key, null_value) if it is not."""
    if name not in fields:
        raise Unusable("missing_key", f"`{name}` is missing; the row has {sorted(map(str, fields))[:12]}")
    if (value := fields[name]) is None:
        raise Unusable("null_value", f"`{name}` is null")
    return value


def clean_text(value: object, name: str) -> str:
    """`value` itself if it is text that can be encoded and shown; Unusable otherwise."""
    if value is None:
        raise Unusable("null_value", f"`{name}` is null")
    if not isinstance(value, str):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)} ({ascii(value)[:60]}), not text")
    if "\x00" in value or "\x1b" in value:
        raise Unusable("control_character", f"`{name}` holds NUL or ESC")
    if not value.isascii():
        refuse_surrogates(value, name)
    return value


def refuse_surrogates(value: str, name: str) -> None:
    """Unusable (invalid_utf8) if the text cannot be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unusable("invalid_utf8", f"`{name}` is not UTF-8 (a lone surrogate) at character {error.start}") from None


def spoken_text(value: object, name: str) -> str:
    """Clean text that says something; Unusable (empty) if it is only whitespace."""
    text = clean_text(value, name)
    if not text or text.isspace():
        raise Unusable("empty", f"`{name}` is {'empty' if not text else 'only whitespace'}")
    return text


def spoken(fields: Fields, name: str) -> str:
    """The field `name` as clean text that says something."""
    return spoken_text(present(fields, name), name)


def label(fields: Fields, name: str) -> str | None:
    """An optional name, id or date as text; None where it is absent, null or blank; a number keeps its digits."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)}, not text or a number")
    text = clean_text(str(value), name)
    return None if not text or text.isspace() else text


def listed(fields: Fields, name: str) -> list[Any]:
    """The field `name` as a list; Unusable if it is something else."""
    value = present(fields, name)
    if not isinstance(value, list):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)}, not a list")
    return value


def number(value: object, name: str) -> float:
    """A finite number; digits in text count as one, because CSV has nothing else."""
    if value is None:
        raise Unusable("null_value", f"`{name}` is null")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unusable("wrong_type", f"`{name}` is {type_name(value)}, not a number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise Unusable("wrong_type", f"`{name}` is {ascii(value)[:40]}, not a number") from None
    if not math.isfinite(found):
        raise Unusable("non_finite_score", f"`{name}` is {found}")
    return found


def refuse_non_finite_scores(fields: Fields) -> None:
    """Unusable (non_finite_score) if a field named as a score is NaN or infinite, read by the kind or not."""
    for name, value in fields.items():
        if type(value) is float and not math.isfinite(value) and "score" in str(name).lower():
            raise Unusable("non_finite_score", f"`{name}` is {value}")
