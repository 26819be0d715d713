"""Rewards that a program can check: form, exact answer, JSON by a schema, and length; named as evenhand.online.verifiers:NAME.

Each gives 1 for a reply that passes and 0 for one that does not, but for `length`, which takes off by the word.
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from evenhand.errors import UserError

# A minus after a word, a digit or a bracket is an operator or a dash, and a comma only joins groups of three digits.
_LAST_NUMBER = re.compile(r"(?:(?<![\w).])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?")
_SECONDS = 5
_INSTALL = "install it with `pip install 'evenhand[rl]'`"


def form(replies: Sequence[str], pattern: str) -> list[float]:
    """1 where the whole reply matches `pattern`, a regular expression in which a dot is any character.

    >>> form(["<answer>4</answer>", "4"], r"<answer>.*</answer>")
    [1.0, 0.0]
    """
    compiled = re.compile(pattern, re.DOTALL)
    return [float(compiled.fullmatch(reply.strip()) is not None) for reply in replies]


def exact_answer(
    replies: Sequence[str], reference: Sequence[str | None], after: str | None = None
) -> list[float | None]:
    """1 where the reply's answer equals the reference's as mathematics: 0.5 is 1/2 and \\frac{1}{2}.

    The answer is what math-verify finds: a boxed expression, else the last one. With `after`, only what stands after its
    last occurrence counts, in the reference too where it has it, such as "####". None where there is no reference.
    Raises UserError where math-verify is not installed.
    """
    parse, verify = _math_verify()
    # A reply such as 9**9**9**9 would compute for ever; math-verify stops by a signal, which only the main thread can have.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None

    def answer(text: str) -> Any:
        told = text if after is None else text.rpartition(after)[2]
        return parse(told, parsing_timeout=seconds)

    def right(reply: str, wanted: str) -> float:
        if after is not None and after not in reply:
            return 0.0
        return float(verify(answer(wanted), answer(reply), timeout_seconds=seconds))

    return [None if wanted is None else right(reply, wanted) for reply, wanted in zip(replies, reference, strict=True)]


def last_number(replies: Sequence[str], reference: Sequence[str | None]) -> list[float | None]:
    """1 where the last number of the reply is the last number of the reference, to nine digits; needs no extra.

    >>> last_number(["It is 1,200.0", "12 or 13", "none"], ["#### 1200", "12", "3"])
    [1.0, 0.0, 0.0]
    >>> last_number([".5", "from 10-12", "(3,4)", "it is -3", "3/4"], ["0.5", "12", "4", "-3", "0.75"])
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    pairs = zip(replies, reference, strict=True)
    return [None if wanted is None else float(_same(_number(reply), _number(wanted))) for reply, wanted in pairs]


def json_schema(replies: Sequence[str], schema: Mapping[str, Any]) -> list[float]:
    """1 where the reply is JSON, alone or in one fenced block, that `schema` (JSON Schema, any draft) allows.

    Raises UserError where jsonschema is not installed or `schema` is none.
    """
    validator = _validator(schema)

    def passes(reply: str) -> bool:
        fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", reply.strip(), re.DOTALL)
        try:
            value = json.loads(fenced[1] if fenced else reply, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return bool(validator.is_valid(value))

    return [float(passes(reply)) for reply in replies]


def length(replies: Sequence[str], most: int, least: int = 0) -> list[float]:
    """0 for a reply of `least` to `most` words, and minus the share of `most` by which it is shorter or longer, at worst -1.

    >>> length(["one two", "one", "one two three four five"], most=4, least=2)
    [0.0, -0.25, -0.25]
    """
    if most < 1 or least > most:
        raise UserError(f"length takes `least` up to `most`, and `most` above 0; they are {least} and {most}.")
    counts = [len(reply.split()) for reply in replies]
    return [0.0 - min(1.0, max(least - count, count - most, 0) / most) for count in counts]  # 0 and not -0


def _number(text: str) -> float | None:
    found = _LAST_NUMBER.findall(text)
    if not found:
        return None
    top, _, bottom = found[-1].replace(",", "").partition("/")
    return float(top) / float(bottom) if bottom and float(bottom) else float(top)


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _math_verify() -> tuple[Any, Any]:
    try:
        from math_verify import parse, verify  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UserError(f"exact_answer needs math-verify; {_INSTALL}, or take last_number.") from error
    return parse, verify


def _validator(schema: Mapping[str, Any]) -> Any:
    try:
        from jsonschema import SchemaError  # noqa: PLC0415 - an extra
        from jsonschema.validators import validator_for  # noqa: PLC0415
    except ImportError as error:
        raise UserError(f"json_schema needs jsonschema; {_INSTALL}.") from error
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise UserError(f"`schema` is no JSON Schema: {error.message}.") from error
    return kind(schema)
