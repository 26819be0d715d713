"""The kinds of row that evenhand knows, and how one is recognised from its columns."""

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenhand.data import judged, pairwise, ranked
from evenhand.data.contest import Claims
from evenhand.data.fields import Fields
from evenhand.errors import DataError

Columns = dict[str, tuple[type, ...]]
TEXT = (str,)
TURNS = (list,)
ANSWER = (str, list, dict)
SCORE = (int, float, str)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of row: its name, `form` in a user's words, its columns with their types, and its reader."""

    name: str
    form: str
    columns: Columns
    read: Callable[[Fields], Claims]

    def named_in(self, fields: Fields) -> bool:
        """Whether a row has this kind's columns."""
        return all(name in fields for name in self.columns)

    def fits(self, fields: Fields) -> bool:
        """Whether a row has this kind's columns with values of the right types."""
        return all(isinstance(fields.get(name), types) for name, types in self.columns.items())


# Of several kinds that fit a row the first is taken, so a kind stands before those whose columns are among its own.
KINDS = (
    Kind(
        "judgments",
        "pairwise",
        {"prompt": (str, list), "answer_a": ANSWER, "answer_b": ANSWER, "verdict": TEXT},
        judged.read_judged,
    ),
    Kind(
        "pandalm",
        "pairwise",
        {"instruction": TEXT, "response1": TEXT, "response2": TEXT, "annotator1": (int, str)},
        judged.read_pandalm,
    ),
    Kind(
        "llmbar",
        "pairwise",
        {"input": TEXT, "output_1": TEXT, "output_2": TEXT, "label": (int, str)},
        judged.read_labelled,
    ),
    Kind(
        "qa_feedback",
        "ranked",
        {"question": TEXT, "passages": TURNS, "prediction 1": TEXT, "preference": TURNS},
        ranked.read_passages,
    ),
    Kind("scored", "ranked", {"prompt": (str, list), "responses": TURNS, "scores": TURNS}, ranked.read_scored),
    Kind("ranking", "ranked", {"prompt": (str, list), "responses": TURNS, "ranking": TURNS}, ranked.read_places),
    Kind("ultrafeedback_raw", "ranked", {"instruction": TEXT, "completions": TURNS}, ranked.read_completions),
    Kind(
        "openai",
        "pairwise",
        {"input": (dict,), "preferred_output": ANSWER, "non_preferred_output": ANSWER},
        pairwise.read_openai,
    ),
    Kind("pairwise", "pairwise", {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}, pairwise.read_plain),
    Kind(
        "ultrafeedback",
        "pairwise",
        {"prompt": TEXT, "chosen": TURNS, "rejected": TURNS, "score_chosen": SCORE, "score_rejected": SCORE},
        pairwise.read_beside("prompt"),
    ),
    Kind(
        "pairwise_messages",
        "pairwise",
        {"prompt": (str, list), "chosen": ANSWER, "rejected": ANSWER},
        pairwise.read_beside("prompt"),
    ),
    Kind(
        "sharegpt",
        "pairwise",
        {"conversations": TURNS, "chosen": ANSWER, "rejected": ANSWER},
        pairwise.read_beside("conversations"),
    ),
    Kind(
        "messages",
        "pairwise",
        {"messages": TURNS, "chosen": ANSWER, "rejected": ANSWER},
        pairwise.read_beside("messages"),
    ),
    Kind("ms_swift", "pairwise", {"messages": TURNS, "rejected_response": TEXT}, pairwise.read_swift),
    Kind("instruction", "pairwise", {"instruction": TEXT, "output": TURNS}, pairwise.read_instruction),
    Kind(
        "instruction_pairwise",
        "pairwise",
        {"instruction": TEXT, "chosen": TEXT, "rejected": TEXT},
        pairwise.read_instruction,
    ),
    Kind("question", "pairwise", {"question": TEXT, "chosen": TEXT, "rejected": TEXT}, pairwise.read_plain),
    Kind("implicit_prompt", "pairwise", {"chosen": TURNS, "rejected": TURNS}, pairwise.read_implicit),
    Kind("hh_rlhf", "pairwise", {"chosen": TEXT, "rejected": TEXT}, pairwise.read_hh),
)
UNDECIDED = frozenset(("judgments", "pandalm", "llmbar", "qa_feedback", "scored", "ranking", "ultrafeedback_raw"))
"""Kinds whose columns do not say which answer won, so that the winner may stand on either side."""

BY_NAME = {kind.name: kind for kind in KINDS}


def kind_named(name: str) -> Kind:
    """The kind of that name; raises DataError that says which names are near and which there are."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, n=2, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise DataError(f"`{name}` is no kind of row that evenhand knows: {meant}The kinds are {', '.join(BY_NAME)}.")


def recognise(rows: Sequence[Fields], source: str) -> Kind:
    """The kind of most of these rows; raises DataError that names their columns and the nearest kinds.

    Types decide first. Where no row has the right types, the columns' names do, so that the rows are refused one by
    one with what is wrong in each.
    """
    for fit in (Kind.fits, Kind.named_in):
        found = [next((kind for kind in KINDS if fit(kind, row)), None) for row in rows]
        votes = Counter(kind.name for kind in found if kind is not None)
        if votes:
            return BY_NAME[votes.most_common(1)[0][0]]
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    shown = ", ".join(ascii(name)[1:-1] for name in columns[:20])
    near = "; ".join(f"{kind.name} needs {', '.join(kind.columns)}" for kind in nearest(columns))
    raise DataError(
        f"{source}: the columns ({shown}) are no kind of preference row that evenhand knows; the nearest are: {near}. "
        "Rename the columns, or force a kind."
    )


def nearest(columns: Sequence[str], count: int = 2) -> list[Kind]:
    """The kinds that share most with these columns, nearest first."""
    names = set(columns)

    def overlap(kind: Kind) -> float:
        return len(names & kind.columns.keys()) / len(names | kind.columns.keys())

    # Where nothing is shared, the plainest kind is the best advice.
    return sorted(KINDS, key=lambda kind: (overlap(kind), kind.name == "pairwise"), reverse=True)[:count]
