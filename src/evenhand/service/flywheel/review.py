"""People look at what was held back: a blind page on which they say which reply is better, and what their votes release."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from evenhand.data.schema import Message
from evenhand.errors import UserError
from evenhand.evaluation.ballot import Ballot
from evenhand.evaluation.judge import Question
from evenhand.service.flywheel.shelf import Row, Shelf, read_rows


def ballot_of(shelf: Shelf, votes: Path) -> Ballot:
    """The pairs that a collection holds back, without what was said of them; raises UserError where there is none."""
    if (found := shelf.read()) is None:
        raise UserError(f"{shelf.record} is not there; give a folder or file that `evenhand collect` wrote.")
    questions = [_question(row) for row in found[1] if "release" in row and "verdict" in row]
    if not questions:
        raise UserError(f"{shelf.held} holds no pair back; held thumbs are released by editing a copy of that file.")
    return Ballot(questions, votes)


def released_by(file: Path, shelf: Shelf) -> tuple[str, ...]:
    """The ids that people released: by `release` in a copy of the held rows, or by votes of the review's page.

    Votes release a pair where more people chose the reply that the collection calls better than the other one. Raises
    UserError where the file is neither.
    """
    try:
        rows = read_rows(file)
        if any("question" in row for row in rows):
            return _by_votes(rows, shelf)
        return tuple(row["id"] for row in rows if row["release"] is True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no file of held rows or votes ({error!r}); edit `release` in a copy of the held rows, or vote with "
            "`evenhand monitor review`."
        ) from error


def _by_votes(rows: list[Row], shelf: Shelf) -> tuple[str, ...]:
    found = shelf.read()
    said: Mapping[str, str] = {row["id"]: row["verdict"] for row in (found[1] if found else []) if "verdict" in row}
    agreed: Counter[str] = Counter()
    for row in rows:
        if row["verdict"] != "tie" and row["question"] in said:
            agreed[row["question"]] += 1 if row["verdict"] == said[row["question"]] else -1
    return tuple(name for name, ahead in agreed.items() if ahead > 0)


def _question(row: Row) -> Question:
    prompt = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
    return Question(row["id"], prompt, row["answer_a"], row["answer_b"])
