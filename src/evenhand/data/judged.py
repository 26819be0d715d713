"""Rows with two answers side by side and the verdicts of one or more annotators."""

import re
from dataclasses import replace

from evenhand.data.contest import Claims, Contest, contest
from evenhand.data.conversation import answer_of, prompt_of, with_system
from evenhand.data.fields import Fields, clean_text, label, present, spoken
from evenhand.data.pairwise import instruction_text
from evenhand.data.ranked import attempt, numbered_verdict
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Side, Verdict

ANNOTATOR = re.compile(r"annotator_?(\d+)")
VERDICTS: dict[str, Verdict] = {
    "a": "a",
    "b": "b",
    "tie": "tie",
    "a-is-better": "a",
    "a-is-slightly-better": "a",
    "b-is-better": "b",
    "b-is-slightly-better": "b",
}


def read_judged(fields: Fields) -> Claims:
    """evenhand's own form: `prompt`, `answer_a`, `answer_b`, `verdict`, and who, when and which was shown first."""
    prompt = prompt_of(present(fields, "prompt"), "prompt")
    answers = answer_of(present(fields, "answer_a"), "answer_a"), answer_of(present(fields, "answer_b"), "answer_b")
    found = contest(*answers, worded_verdict(present(fields, "verdict")), label(fields, "annotator"))
    return Claims(with_system(fields, prompt), (replace(found, shown_first=shown_first(fields)),))


def worded_verdict(value: object) -> Verdict:
    """a, b or tie, or one of five levels such as `a-is-slightly-better`, in any case.

    >>> worded_verdict("B-is-better")
    'b'
    """
    verdict = VERDICTS.get(clean_text(value, "verdict").strip().lower()) if isinstance(value, str) else None
    if verdict is None:
        raise Unusable("unknown_verdict", f"`verdict` is {ascii(value)[:40]}; known are {sorted(VERDICTS)}")
    return verdict


def shown_first(fields: Fields) -> Side | None:
    """Which answer the annotator saw first, None where the row does not tell."""
    match (label(fields, "shown_first") or "").strip().lower():
        case "":
            return None
        case "a":
            return "a"
        case "b":
            return "b"
        case word:
            raise Unusable("wrong_type", f"`shown_first` is {ascii(word)[:40]}, not a or b")


def read_pandalm(fields: Fields) -> Claims:
    """PandaLM: `instruction`, `input`, `response1`, `response2`, and a numbered verdict for each annotator."""
    prompt = prompt_of(instruction_text(fields), "instruction")
    first, second = spoken(fields, "response1"), spoken(fields, "response2")

    def judge(annotator: str) -> Contest:
        return contest(first, second, numbered_verdict(present(fields, annotator)), annotator)

    annotators = sorted((name for name in fields if ANNOTATOR.fullmatch(name)), key=lambda name: (len(name), name))
    if not annotators:
        raise Unusable("missing_key", "`annotator1` is missing")
    contests = tuple(attempt(judge, name) for name in annotators)
    return Claims(with_system(fields, prompt), contests, key="idx" if "idx" in fields else "id", topic="motivation_app")


def read_labelled(fields: Fields) -> Claims:
    """LLMBar: `input`, `output_1`, `output_2`, and `label` with the number of the better one."""
    prompt = prompt_of(spoken(fields, "input"), "input")
    answers = spoken(fields, "output_1"), spoken(fields, "output_2")
    found = contest(*answers, numbered_verdict(present(fields, "label")), label(fields, "annotator"))
    return Claims(with_system(fields, prompt), (found,), topic="part" if "part" in fields else "category")
