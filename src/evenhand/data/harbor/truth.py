"""What is known about every line of the built-in data: the answer key that audit and curation are tested against."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from evenhand.data.schema import Verdict

Planted = Literal[
    "clean",
    "tie",
    "contradiction",
    "exact_duplicate",
    "near_duplicate",
    "malformed",
    "length_lover",
    "first_lover",
]


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth about one line.

    `row` is the 0-based line and `id` the id that was written there (a malformed line may have lost it). Lines that
    share `item` judge the same ticket and replies. `prompt_template`, `template_a` and `template_b` name the texts
    behind them, as `family.text`. `clean_verdict` is what a careful reader says; an honest annotator errs now and
    then, so that a clean line may carry another verdict. `planted` is the line's class; `detail` names the kind of
    malformation or the edits of a near-duplicate; `original` is the row that a duplicate repeats, always above it.
    """

    row: int
    id: str
    item: int
    category: str
    family: str
    prompt_template: str
    template_a: str
    template_b: str
    clean_verdict: Verdict
    planted: Planted
    detail: str | None = None
    original: int | None = None

    def json(self) -> dict[str, Any]:
        """The row of `truth.jsonl`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Harbor:
    """The built-in judgments: `lines` are raw JSONL lines without newline, some malformed on purpose; one `truth` each.

    `length_lover` and `first_lover` are the annotators who judge by length and by position; None if not planted.
    """

    lines: tuple[str, ...]
    truth: tuple[Truth, ...]
    length_lover: str | None
    first_lover: str | None
