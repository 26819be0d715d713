"""Demonstrations for supervised fine-tuning: prompts with one reply, read and audited like judgments."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.data.case import AuditOptions
from evenhand.data.checks import leaked
from evenhand.data.contest import Claims, Contest
from evenhand.data.conversation import answer_of, conversation_of, prompt_of, with_system
from evenhand.data.facts import Facts
from evenhand.data.fields import Fields, present, spoken
from evenhand.data.findings import Finding, Severity, shown
from evenhand.data.items import prompt_text
from evenhand.data.kinds import KINDS, Kind
from evenhand.data.limits import tokens_of
from evenhand.data.lines import Notes
from evenhand.data.marks import PERSONAL, Mark
from evenhand.data.pairwise import history_of, instruction_text
from evenhand.data.read import ROWS_LOOKED_AT, read_as
from evenhand.data.schema import Message, Reading
from evenhand.data.similarity import near_groups
from evenhand.data.sources import source_rows

_REPLIES = ("response", "completion", "reply", "answer", "output")
_NEARLY = 0.8
_LONG_REPLY = 200
_FEWEST_WORDS = 3
_ENDS = frozenset(".!?…。！？\"'”’)]}`*:;>|~")


def _read_turns(name: str) -> Callable[[Fields], Claims]:
    def read(fields: Fields) -> Claims:
        prompt, reply = conversation_of(present(fields, name), name)
        return _shown_once(with_system(fields, prompt), reply)

    return read


def _read_prompted(prompt_name: str, reply_name: str) -> Callable[[Fields], Claims]:
    def read(fields: Fields) -> Claims:
        prompt = prompt_of(present(fields, prompt_name), prompt_name)
        return _shown_once(with_system(fields, prompt), answer_of(present(fields, reply_name), reply_name))

    return read


def _read_instruction(reply_name: str) -> Callable[[Fields], Claims]:
    def read(fields: Fields) -> Claims:
        turns = (*history_of(fields), Message("user", instruction_text(fields)))
        return _shown_once(with_system(fields, turns), spoken(fields, reply_name))

    return read


def _shown_once(prompt: tuple[Message, ...], reply: str) -> Claims:
    """A demonstration as a contest of a reply with itself, so that one reader serves both kinds of data."""
    return Claims(prompt, (Contest(reply, reply, "a"),))


DEMONSTRATIONS = (
    Kind("messages", "demonstrations", {"messages": (list,)}, _read_turns("messages")),
    Kind("conversations", "demonstrations", {"conversations": (list,)}, _read_turns("conversations")),
    *(
        Kind(f"{asked}_{reply}", "demonstrations", {asked: (str, list), reply: (str, list, dict)}, make(asked, reply))
        for asked, make in (
            ("instruction", lambda _, reply: _read_instruction(reply)),
            ("prompt", _read_prompted),
            ("question", _read_prompted),
        )
        for reply in _REPLIES
    ),
)


def demonstration_kind(source: str | Path) -> Kind | None:
    """The kind of demonstrations that a source holds; None where its rows are judgments or nothing known."""
    parsed = [row.fields for row in islice(source_rows(source, Notes()), ROWS_LOOKED_AT) if row.fields is not None]
    if any(kind.fits(fields) for fields in parsed for kind in KINDS):
        return None
    votes = Counter(kind.name for fields in parsed for kind in DEMONSTRATIONS if kind.fits(fields))
    return next((kind for kind in DEMONSTRATIONS if kind.name in votes), None)


def read_demonstrations(source: str | Path, kind: Kind) -> Reading:
    """Read demonstrations of that kind: every row is used, as a judgment whose answers are both the reply, or refused."""
    return read_as(source, kind)


def demonstration_findings(reading: Reading, facts: Facts, options: AuditOptions) -> tuple[Finding, ...]:
    """What is wrong with demonstrations, each finding with the rows that a rule would remove."""
    marks_N, encode, max_tokens = facts.measures.marks_N, options.encode, options.max_tokens
    findings = [
        _finding(reading, facts, "exact_duplicate", "warning", _repeats(facts)),
        _finding(reading, facts, "near_duplicate", "warning", _near_repeats(facts)),
        _finding(reading, facts, "cut_off", "warning", _cut_off(reading)),
        _finding(reading, facts, "refusal", "info", _with(marks_N, Mark.A_REFUSES)),
        _finding(reading, facts, "template_mixed", "severe", _with(marks_N, Mark.TEMPLATE)),
        _finding(reading, facts, "control_token", "warning", _with(marks_N, Mark.CONTROL)),
        _finding(reading, facts, "pii", "warning", _with(marks_N, sum(PERSONAL.values()))),
        _finding(reading, facts, "not_language", "warning", _with(marks_N, Mark.WORDLESS)),
    ]
    if encode is not None and max_tokens is not None:
        long = [at for at, own in enumerate(reading.judgments) if tokens_of(own, encode) > max_tokens]
        findings.append(_finding(reading, facts, "too_long", "warning", long))
    if options.held_out is not None:
        prompts = (prompt_text(own.prompt) for own in facts.judgments)
        places = leaked(prompts, options.held_out, options.rules.families)
        findings.append(_finding(reading, facts, "leak", "severe", places))
    return tuple(finding for finding in findings if finding.rows)


def _finding(reading: Reading, facts: Facts, name: str, severity: Severity, places: Sequence[int]) -> Finding:
    rows = tuple(sorted(facts.ballots[at].row for at in places))
    examples = tuple(
        shown(own.row, own.id, prompt_text(own.prompt)) for own in map(reading.judgments.__getitem__, places[:5])
    )
    return Finding(name, severity, rows, len(rows) / max(1, reading.rows_in), "", examples, preferences=False)


def _with(marks_N: Any, bits: int) -> list[int]:
    found: list[int] = np.flatnonzero((marks_N & bits) > 0).tolist()
    return found


def _repeats(facts: Facts) -> list[int]:
    seen: set[bytes] = set()
    repeats = []
    for at, key in enumerate(facts.same):
        if key.item in seen:
            repeats.append(at)
        seen.add(key.item)
    return repeats


def _near_repeats(facts: Facts) -> list[int]:
    """All but the first of each group of demonstrations that share eight tenths of their shingles, exact ones aside."""
    exact = set(_repeats(facts))
    texts = [f"{prompt_text(own.prompt)}\n{own.answer_a}" for own in facts.judgments]
    groups: dict[str, list[int]] = defaultdict(list)
    for at, group in enumerate(near_groups(texts, _NEARLY)):
        if at not in exact:
            groups[group].append(at)
    return sorted(at for members in groups.values() for at in members[1:])


def _cut_off(reading: Reading) -> list[int]:
    """Long replies that stop without the end of a sentence, a block or a list."""
    return [at for at, own in enumerate(reading.judgments) if stops_early(own.answer_a)]


def stops_early(reply: str) -> bool:
    """Whether a reply of some length stops in the middle of a sentence.

    >>> stops_early("It was late. " * 20 + "We will send it on"), stops_early("Yes")
    (True, False)
    """
    told = reply.rstrip()
    last = told.rpartition("\n")[2].lstrip()
    listed = last[:2] in ("- ", "* ", "• ") or last[:1].isdigit() or last.startswith(("    ", "\t"))
    return (
        len(told) >= _LONG_REPLY
        and told[-1] not in _ENDS
        and told[-1].isalnum()
        and not listed
        and len(last.split()) >= _FEWEST_WORDS
    )
