"""Replies kept beside the scores, so that every figure about them can be computed again."""

import json
from pathlib import Path

from evenhand.data.schema import Message
from evenhand.errors import DataError
from evenhand.evaluation.generate import Generation, Reply
from evenhand.files import write_json


def write_replies(path: Path, generation: Generation) -> None:
    """Write every reply with its family as JSON, whole or not at all."""
    rows = [{**reply.json(), "family": family} for reply, family in zip(generation.replies, generation.family)]
    write_json(path, {"replies": rows, "left_out": generation.left_out})


def read_replies(path: Path) -> Generation:
    """What `write_replies` wrote; raises DataError where the file holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        families = tuple(row.pop("family") for row in value["replies"])
        replies = tuple(
            Reply(**{**row, "prompt": tuple(Message(**message) for message in row["prompt"])})
            for row in value["replies"]
        )
        return Generation(replies, families, value["left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of replies ({error}); remove it and run again.") from error
