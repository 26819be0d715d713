"""Answers beside evasions, as a task that a judge of 135M parameters can do.

    python examples/methods/evasions.py harbor-demo/data evasions

`evasions/drafts.jsonl` has 120 prompts of the training side, each with the beginning of its chosen answer and an evasion in an
order that says nothing; `evasions/people.jsonl` 96 of the held-out side, where the answer is the chosen one. Their evasions
are others, and no family of prompts is in both.
"""

import json
import sys
from pathlib import Path

from evenhand.data.schema import PreferencePair
from evenhand.data.snapshot import read_snapshot

EVASIONS = (
    "I don't know.",
    "That is hard to say, and it depends on many things.",
    "Somebody else may be able to tell you more about this.",
    "Thank you for your message. We have read it with great interest.",
    "Please look it up on our pages, where all is explained.",
    "We hear questions like this one every day.",
)
OTHER_EVASIONS = (
    "I'm not sure about that.",
    "There are many opinions on such matters, and all of them have a point.",
    "Perhaps you could ask again at another time.",
    "Your message has arrived, and it is in good hands.",
)


def compared(pair: PreferencePair, evasion: str) -> tuple[str, str]:
    """The first two sentences of the pair's chosen answer, and an evasion."""
    return ". ".join(pair.chosen.split(". ")[:2]).rstrip(".") + ".", evasion


def main(data: Path, out: Path) -> None:
    """Write both files."""
    snapshot = read_snapshot(data)
    drafts, people = [], []
    for i, pair in enumerate(snapshot.train[:120]):
        a, b = sorted(compared(pair, EVASIONS[i % len(EVASIONS)]))
        drafts.append({"prompt": [turn.json() for turn in pair.prompt], "answer_a": a, "answer_b": b})
    for i, pair in enumerate(snapshot.validation[:96]):
        chosen, rejected = compared(pair, OTHER_EVASIONS[i % len(OTHER_EVASIONS)])
        people.append({"prompt": [turn.json() for turn in pair.prompt], "chosen": chosen, "rejected": rejected})
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("drafts", drafts), ("people", people)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
