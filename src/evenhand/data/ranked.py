"""Rows with k answers and their scores or places: every pair of answers becomes one contest."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import ParamSpec

from evenhand.data.contest import Claims, Contest, contest
from evenhand.data.conversation import Prompt, answer_of, prompt_of, with_system
from evenhand.data.fields import Fields, label, listed, number, present, spoken, type_name
from evenhand.data.pairwise import instruction_text
from evenhand.data.reasons import Unusable
from evenhand.data.schema import Verdict

P = ParamSpec("P")
MAX_ANSWERS = 64


def attempt(make: Callable[P, Contest], *args: P.args, **names: P.kwargs) -> Contest | Unusable:
    """The contest that `make` returns, or why there is none: one bad answer does not cost its whole row."""
    try:
        return make(*args, **names)
    except Unusable as problem:
        return problem


def contests_of(fields: Fields, prompt: Prompt, answers: Sequence[object], merits: Sequence[object]) -> Claims:
    """All pairs i < j of answers, decided by their merit (more is better); equal merits are a tie."""
    if len(answers) != len(merits):
        raise Unusable("different_lengths", f"the row has {len(answers)} answers and {len(merits)} scores")
    if len(answers) > MAX_ANSWERS:
        raise Unusable("too_large", f"the row has {len(answers)} answers and the limit is {MAX_ANSWERS}")
    if len(answers) < 2:
        raise Unusable("different_lengths", f"the row has {len(answers)} answers; a contest needs two")
    annotator = label(fields, "annotator")

    def meet(i: int, j: int) -> Contest:
        answer_a, answer_b = answer_of(answers[i], f"answer {i}"), answer_of(answers[j], f"answer {j}")
        verdict = by_merit(number(merits[i], f"score {i}"), number(merits[j], f"score {j}"))
        return contest(answer_a, answer_b, verdict, annotator)

    pairs = combinations(range(len(answers)), 2)
    return Claims(with_system(fields, prompt), tuple(attempt(meet, i, j) for i, j in pairs))


def by_merit(merit_a: float, merit_b: float) -> Verdict:
    """Who has more merit.

    >>> by_merit(4.5, 4.0), by_merit(3, 3)
    ('a', 'tie')
    """
    if merit_a == merit_b:
        return "tie"
    return "a" if merit_a > merit_b else "b"


def read_scored(fields: Fields) -> Claims:
    """`prompt`, `responses`, and `scores`, of which the highest is best."""
    prompt = prompt_of(present(fields, "prompt"), "prompt")
    return contests_of(fields, prompt, listed(fields, "responses"), listed(fields, "scores"))


def read_places(fields: Fields) -> Claims:
    """`prompt`, `responses`, and `ranking`: `ranking[i]` is the place of `responses[i]`, the lowest is best."""
    prompt = prompt_of(present(fields, "prompt"), "prompt")
    places = listed(fields, "ranking")
    merits = [-number(place, f"ranking[{i}]") for i, place in enumerate(places)]
    return replace(contests_of(fields, prompt, listed(fields, "responses"), merits), notes=("ranking_places",))


def read_completions(fields: Fields) -> Claims:
    """UltraFeedback before it was made binary: `instruction` and `completions` with `response`, `overall_score`."""
    prompt = prompt_of(instruction_text(fields), "instruction")
    completions = listed(fields, "completions")
    for index, completion in enumerate(completions):
        if not isinstance(completion, dict):
            raise Unusable("wrong_type", f"`completions[{index}]` is {type_name(completion)}, not an object")
    answers = [completion.get("response") for completion in completions]
    return contests_of(fields, prompt, answers, [completion.get("overall_score") for completion in completions])


def read_passages(fields: Fields) -> Claims:
    """Long-form question answering: passages and a question, four predictions, six verdicts in pair order."""
    names = sorted(name for name in fields if name.startswith("prediction "))
    pairs = list(combinations(names, 2))
    verdicts = listed(fields, "preference")
    if len(verdicts) != len(pairs):
        raise Unusable("different_lengths", f"{len(names)} predictions need {len(pairs)} verdicts, not {len(verdicts)}")
    prompt = prompt_of(f"{passages_text(fields)}\n\nQuestion: {spoken(fields, 'question')}", "question")
    annotator = label(fields, "annotator")

    def meet(first: str, second: str, verdict: object) -> Contest:
        return contest(spoken(fields, first), spoken(fields, second), numbered_verdict(verdict), annotator)

    found = (attempt(meet, *pair, verdict) for pair, verdict in zip(pairs, verdicts))
    return Claims(with_system(fields, prompt), tuple(found))


def passages_text(fields: Fields) -> str:
    """The passages, each a list of sentences after its title, with a blank line between them."""
    texts: list[str] = []
    for index, passage in enumerate(listed(fields, "passages")):
        if not isinstance(passage, list) or not all(isinstance(part, str) for part in passage):
            raise Unusable("wrong_type", f"`passages[{index}]` is not a list of texts")
        title, *sentences = passage or [""]
        body = " ".join(sentences)
        texts.append(body if body.startswith(title) else f"{title}\n\n{body}")
    return "\n\n".join(texts)


def numbered_verdict(value: object) -> Verdict:
    """1 for the first answer, 2 for the second, 0 for a tie; also as text, because CSV has nothing else."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        match str(value).strip():
            case "1":
                return "a"
            case "2":
                return "b"
            case "0":
                return "tie"
    raise Unusable("unknown_verdict", f"the verdict is {ascii(value)[:40]}; known are 1 (first), 2 (second), 0 (tie)")
