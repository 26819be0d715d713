"""What one row says before it has ids: a prompt, and the contests between two of its answers."""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from evenhand.data.conversation import Prompt
from evenhand.data.fields import Fields, label
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Judgment, Side, Verdict

MAX_TEXT_BYTES = 1 << 20
FIRST_WORDS = 8
FIRST_WORDS_CHARACTERS = 256
INVISIBLE = re.compile("[\u0080-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


@dataclass(frozen=True, slots=True)
class Contest:
    """Two answers to the row's prompt and what somebody thought of them."""

    answer_a: str
    answer_b: str
    verdict: Verdict
    annotator: str | None = None
    shown_first: Side | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """All that one row claims: each contest is usable, or the reason why it is not.

    `notes` are codes of what was kept although it looks odd; `key` and `topic` name the fields that hold this kind's
    own id and category where they are not called `id` and `category`.
    """

    prompt: Prompt
    contests: tuple[Contest | Unusable, ...]
    notes: tuple[str, ...] = ()
    key: str = "id"
    topic: str = "category"


@dataclass(frozen=True, slots=True)
class Settled:
    """What is usable of a row: contests by their place in the row, and the hash of what they and the row say.

    `several` tells whether the row claimed more than one contest, usable or not.
    """

    prompt: Prompt
    contests: dict[int, Contest]
    several: bool
    time: str | None
    category: str | None
    family: str | None
    content: str
    notes: tuple[str, ...]


def contest(answer_a: str, answer_b: str, verdict: Verdict, annotator: str | None = None) -> Contest:
    """A contest between two texts; Unusable if one is preferred although both are the same.

    A tie between equal texts stays: it is a sound verdict, and no pair is ever built from it.
    """
    if verdict != "tie":
        if answer_a == answer_b:
            raise Unusable("identical_answers", "both answers are the same text, yet one is preferred")
        if same_but_for_form(answer_a, answer_b):
            raise Unusable("identical_answers_normalised", "both answers differ only in whitespace or Unicode form")
    return Contest(answer_a, answer_b, verdict, annotator)


def same_but_for_form(left: str, right: str) -> bool:
    """Whether two texts differ only in whitespace or in Unicode form; most differ in their first words already.

    >>> same_but_for_form("one  two\\n", "one two"), same_but_for_form("one two", "onetwo")
    (True, False)
    """
    first_left, first_right = first_words(left), first_words(right)
    if first_left is not None and first_right is not None and first_left != first_right:
        return False
    return folded(left) == folded(right)


def first_words(text: str) -> str | None:
    """The first words, normalised as `folded` does; None where they are too long for that to be cheap."""
    words = " ".join(text.split(maxsplit=FIRST_WORDS)[:FIRST_WORDS])
    return unicodedata.normalize("NFC", words) if len(words) < FIRST_WORDS_CHARACTERS else None


def folded(text: str) -> str:
    """The text in Unicode form NFC with one space between its words.

    Sorting a stack of n marks takes n * n steps, so stacks beyond Unicode's stream-safe limit of 30 stay as they are.
    """
    spaced = " ".join(text.split())
    if spaced.isascii() or stacked_marks().search(spaced):
        return spaced
    return unicodedata.normalize("NFC", spaced)


@cache
def stacked_marks() -> re.Pattern[str]:
    """Matches 31 combining marks in a row, or as many characters of the rare scripts beyond U+10000.

    One range for all of those, because their marks one by one would make the search ten times slower.
    """
    marks = (chr(code) for code in range(0x300, 0x10000) if unicodedata.combining(chr(code)))
    return re.compile(f"[{''.join(marks)}\U00010000-\U0001efff]{{31}}")


def settle(fields: Fields, claims: Claims) -> Settled:
    """The usable contests of one row; Unusable, with the first one's reason, if there is none."""
    contests = {index: found for index, found in enumerate(claims.contests) if isinstance(found, Contest)}
    unusable = [found for found in claims.contests if isinstance(found, Unusable)]
    if not contests:
        raise unusable[0]
    notes = [*claims.notes, *(f"left_out:{problem.reason}" for problem in unusable)]
    notes += [
        "identical_tie" for found in contests.values() if found.verdict == "tie" and found.answer_a == found.answer_b
    ]
    notes += odd_texts(claims.prompt, contests.values())
    about = label(fields, "time"), label(fields, claims.topic), label(fields, "family")
    content = content_hash(claims.prompt, contests.values(), about)
    return Settled(claims.prompt, contests, len(claims.contests) > 1, *about, content, tuple(notes))


def odd_texts(prompt: Prompt, contests: Collection[Contest]) -> list[str]:
    """What to note about a row's texts; Unusable (too_large) if together they have more than 1 MiB in UTF-8."""
    texts = {turn.content for turn in prompt}
    for found in contests:
        texts.add(found.answer_a)
        texts.add(found.answer_b)
    size = sum(map(len, texts))
    if 4 * size > MAX_TEXT_BYTES and (size := sum(len(text.encode()) for text in texts)) > MAX_TEXT_BYTES:
        raise Unusable("too_large", f"the row's text has {size} bytes and the limit is {MAX_TEXT_BYTES}")
    odd = any(INVISIBLE.search(text) for text in texts if not text.isascii())
    return ["invisible_character"] if odd else []


def judgments_of(settled: Settled, row: int, name: str, group: str | None) -> Iterator[Judgment]:
    """A row's judgments under the row's name.

    Those of a row with several contests are numbered `#0`, `#1` ... by contest, so that an unusable one does not
    move its neighbours' ids.
    """
    for index, found in settled.contests.items():
        yield Judgment(
            id=f"{name}#{index}" if settled.several else name,
            row=row,
            group=str(row) if group is None else group,
            prompt=settled.prompt,
            answer_a=found.answer_a,
            answer_b=found.answer_b,
            verdict=found.verdict,
            annotator=found.annotator,
            shown_first=found.shown_first,
            time=settled.time,
            category=settled.category,
            family=settled.family,
        )


def content_hash(prompt: Prompt, contests: Iterable[Contest], about: tuple[str | None, ...]) -> str:
    """SHA-256 of what a row says, whatever file, row number or key order it says it in.

    No text holds NUL, so NUL can stand between the parts; no label is empty, so an empty part is an absent one.
    """
    parts = [str(len(prompt))]
    for turn in prompt:
        parts += (turn.role, turn.content)
    for found in contests:
        parts += (found.answer_a, found.answer_b, found.verdict, found.annotator or "", found.shown_first or "")
    parts += (part or "" for part in about)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
