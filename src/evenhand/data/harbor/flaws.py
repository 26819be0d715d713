"""The flaws that are planted in the built-in judgments: their rates, small rewordings, and broken lines."""

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from evenhand.errors import DataError

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Flaws:
    """How much of what is wrong. All are shares of all judgments, except two.

    `noise` is the share of honest verdicts that miss the clean verdict, `repeated` the share of items that 2 or 3
    annotators judge. `contradictions` counts every honest row of an item whose honest winners disagree; noise alone
    makes some, and annotators who judge an item twice and differently make the rest. A rate of 0 for a lover means
    that this annotator is honest.

    Raises DataError for a rate outside 0 to 1, when duplicates, malformed rows, contradictions and ties together are
    more than half of the judgments, and when the lovers make more than 0.6 of them.
    """

    exact_duplicates: float = 0.03
    near_duplicates: float = 0.03
    malformed: float = 0.02
    contradictions: float = 0.035
    ties: float = 0.06
    length_lover: float = 0.18
    first_lover: float = 0.18
    noise: float = 0.06
    repeated: float = 0.30

    def __post_init__(self) -> None:
        for rate in fields(self):
            if not 0.0 <= getattr(self, rate.name) <= 1.0:
                raise DataError(f"Flaws: {rate.name} is {getattr(self, rate.name)}; choose a share from 0 to 1.")
        if (total := self.planted) > 0.5:
            raise DataError(
                f"Flaws: the planted shares add up to {total:.2f}; choose them so that they stay below 0.5."
            )
        if (lovers := self.length_lover + self.first_lover) > 0.6:
            raise DataError(f"Flaws: the biased annotators make {lovers:.2f} of the judgments; choose at most 0.6.")

    @property
    def planted(self) -> float:
        """The share of judgments that are duplicates, malformed, contradictions or ties."""
        return self.exact_duplicates + self.near_duplicates + self.malformed + self.contradictions + self.ties


USUAL = Flaws()

_GREETINGS = ("Hi,", "Hello,", "Hey there,", "Good morning,", "Good evening,", "Hi Harbor team,", "Dear support,")
_CLOSINGS = ("Thanks!", "Thank you.", "Thanks in advance.", "Cheers", "Many thanks")
_SHORTER = (
    (r"\bI am\b", "I'm"),
    (r"\bI'm\b", "I am"),
    (r"\bcannot\b", "can't"),
    (r"\bcan't\b", "cannot"),
    (r"\bPlease\b", "Pls"),
    (r"\bplease\b", "pls"),
    (r"\bdoesn't\b", "does not"),
    (r"\bdidn't\b", "did not"),
    (r"\bdon't\b", "do not"),
    (r"\bI've\b", "I have"),
    (r"\bI'd\b", "I would"),
    (r"\bit's\b", "it is"),
    (r"\bthough\b", "although"),
    (r"\byour\b", "ur"),
)


def reword(row: Mapping[str, str], rng: random.Random) -> tuple[Row, str]:
    """A near-duplicate of `row`: one to three small edits of the ticket, at times one of an answer; and their names."""
    copy = dict(row)
    chosen = rng.sample(sorted(_EDITS), rng.choice((1, 2, 2, 3)))
    done = []
    for name in chosen:
        edited = _EDITS[name](copy["prompt"], rng)
        if edited != copy["prompt"]:
            copy["prompt"] = edited
            done.append(name)
    if not done:
        copy["prompt"] = _greeting(copy["prompt"], rng)
        done.append("greeting")
    if rng.random() < 0.3:
        side = rng.choice(("answer_a", "answer_b"))
        copy[side] = copy[side].removesuffix(".")
        done.append(side)
    return copy, "+".join(done)


def _greeting(text: str, rng: random.Random) -> str:
    return f"{rng.choice(_GREETINGS)} {text}"


def _closing(text: str, rng: random.Random) -> str:
    return f"{text} {rng.choice(_CLOSINGS)}"


def _casing(text: str, rng: random.Random) -> str:
    return text.lower() if rng.random() < 0.5 else re.sub(r"(?<=[.?!] )[A-Z]", lambda letter: letter[0].lower(), text)


def _punctuation(text: str, rng: random.Random) -> str:
    return rng.choice((text.replace(",", "", 1), text.replace(". ", "! ", 1), text.rstrip(".?!") + "...", text + "??"))


def _typo(text: str, rng: random.Random) -> str:
    words = list(re.finditer(r"\b[a-z]{6,}\b", text))
    if not words:
        return text
    word = rng.choice(words)
    at = word.start() + rng.randrange(1, len(word[0]) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _wording(text: str, rng: random.Random) -> str:
    fitting = [pair for pair in _SHORTER if re.search(pair[0], text)]
    return re.sub(*rng.choice(fitting), text, count=1) if fitting else text


_EDITS: dict[str, Callable[[str, random.Random], str]] = {
    "greeting": _greeting,
    "closing": _closing,
    "casing": _casing,
    "punctuation": _punctuation,
    "typo": _typo,
    "wording": _wording,
}


def line_of(row: Mapping[str, Any]) -> str:
    """The row as one JSONL line, keys in their order."""
    return json.dumps(row, ensure_ascii=False)


def malform(row: Mapping[str, str], rng: random.Random) -> tuple[str, str]:
    """A line for `row` that no careful reader accepts, and the name of what is wrong with it."""
    kind = rng.choice(sorted(_BREAKAGES))
    return _BREAKAGES[kind](row, rng), kind


def _torn(row: Mapping[str, str], rng: random.Random) -> str:
    line = line_of(row)
    return line[: rng.randrange(len(line) // 3, len(line) - 8)]


def _broken_json(row: Mapping[str, str], rng: random.Random) -> str:
    line = line_of(row)
    return rng.choice((line[1:], line[:-1] + ",}", line.replace('": "', '" "', 1), line.replace('"', "'"), line + "}"))


def _missing_key(row: Mapping[str, str], rng: random.Random) -> str:
    lost = rng.choice(("prompt", "answer_a", "answer_b", "verdict"))
    return line_of({key: value for key, value in row.items() if key != lost})


def _wrong_type(row: Mapping[str, str], rng: random.Random) -> str:
    key = rng.choice(("prompt", "answer_a", "answer_b", "verdict"))
    return line_of({**row, key: rng.choice((None, 7, True, [], {"text": 3}))})


def _empty_answer(row: Mapping[str, str], rng: random.Random) -> str:
    return line_of({**row, rng.choice(("answer_a", "answer_b")): rng.choice(("", " ", "\n"))})


def _identical_answers(row: Mapping[str, str], rng: random.Random) -> str:
    kept = rng.choice(("answer_a", "answer_b"))
    return line_of({**row, "answer_a": row[kept], "answer_b": row[kept]})


def _unknown_verdict(row: Mapping[str, str], rng: random.Random) -> str:
    return line_of({**row, "verdict": rng.choice(("c", "left", "?", "", "skip"))})


def _repeated_key(row: Mapping[str, str], rng: random.Random) -> str:
    other = {"a": "b", "b": "a", "tie": rng.choice("ab")}[row["verdict"]]
    return f'{line_of(row)[:-1]}, "verdict": "{other}"}}'


_BREAKAGES: dict[str, Callable[[Mapping[str, str], random.Random], str]] = {
    "torn": _torn,
    "broken_json": _broken_json,
    "missing_key": _missing_key,
    "wrong_type": _wrong_type,
    "empty_answer": _empty_answer,
    "identical_answers": _identical_answers,
    "unknown_verdict": _unknown_verdict,
    "repeated_key": _repeated_key,
}
