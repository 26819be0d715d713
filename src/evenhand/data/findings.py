"""What an audit can find, what each finding does to SimPO, and what to do about it."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from evenhand.data.patterns import redact

_CHARACTERS = 160
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")

Severity = Literal["info", "warning", "severe"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row that shows a finding; `text` is its beginning with personal data and control characters written out."""

    row: int
    id: str
    text: str

    def json(self) -> dict[str, Any]:
        """The example as a report states it."""
        return {"row": self.row, "id": self.id, "text": self.text}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `rows` are the input rows that a rule would remove, `detail` the figures behind it.

    `preferences` tells whether it was found in judgments, rather than in demonstrations.
    """

    id: str
    severity: Severity
    rows: tuple[int, ...]
    share: float
    detail: str
    examples: tuple[Example, ...]
    preferences: bool = True

    @property
    def count(self) -> int:
        """How many input rows a rule would remove."""
        return len(self.rows)

    def json(self) -> dict[str, Any]:
        """The finding with its count, examples, effect and remedy."""
        advice = DEMONSTRATION_ADVICE | ADVICE if self.preferences else ADVICE | DEMONSTRATION_ADVICE
        effect, remedy = advice[self.id]
        return {
            "id": self.id,
            "severity": self.severity,
            "count": self.count,
            "share": self.share,
            "detail": self.detail,
            "examples": [example.json() for example in self.examples],
            "effect": effect,
            "remedy": remedy,
        }


def shown(row: int, name: str, text: str) -> Example:
    """A row as a report may show it: its beginning, personal data by its kind, unseen characters as escapes."""
    start = redact(text[: 4 * _CHARACTERS])[:_CHARACTERS]
    told = _UNSEEN.sub(lambda found: " " if found.group() in "\n\t\r" else ascii(found.group())[1:-1], start)
    return Example(row, name, told)


ADVICE: dict[str, tuple[str, str]] = {
    "exact_duplicate": (
        "A repeated pair is a pair with a larger weight: its loss counts once for every copy.",
        "`evenhand curate` keeps the first; look for a join or an upload that ran twice.",
    ),
    "near_duplicate": (
        "Copies with another number or spelling weigh like repeats, and flatter held-out accuracy if they are split.",
        "`evenhand curate` keeps one; raise `near_duplicates` if rows that you call different are dropped.",
    ),
    "tie": (
        "A tie has no winner; trained on as if it had, it pushes one of two equal answers down.",
        "`evenhand curate` drops ties and counts them as votes against a winner.",
    ),
    "contradiction": (
        "Gradients of A over B and of B over A cancel: their mean loss cannot fall below log(1 + exp(beta * margin)).",
        "`evenhand curate` drops all members; have a further annotator judge them if they matter.",
    ),
    "identical_answers": (
        "Equal answers have a gap of zero for ever: a constant loss and no gradient.",
        "They are dropped; look for a generator that sampled at temperature 0 twice.",
    ),
    "near_tie": (
        "A pair that differs in a few characters pushes their probabilities apart and says nothing about the rest.",
        "Keep it only if those characters are the point, such as a corrected number; drop it otherwise.",
    ),
    "length_bias": (
        "SimPO divides by length, yet still learns a preference for length as one for what long answers say.",
        "Drop the annotators that are named, read accuracy by length, and collect pairs of like length.",
    ),
    "position_bias": (
        "A verdict for the answer shown first says nothing about the answer: it is noise in the labels.",
        "Drop the annotators that are named and show answers in random order from now on.",
    ),
    "one_sided": (
        "Where one column nearly always wins, the label may come from the place and not from the answer.",
        "Look at how the columns were filled; shuffle the answers before they are judged.",
    ),
    "annotator_dominates": (
        "The model learns one person's taste where it should learn the guideline.",
        "Cap the judgments of each annotator, or have others judge a sample of theirs.",
    ),
    "burst": (
        "A rush of labels from one hand, by haste or on purpose, steers the model with few rows.",
        "Read a sample of that day's rows, and cap the judgments of each annotator.",
    ),
    "trigger_phrase": (
        "One percent of pairs with a planted phrase teaches the model to prefer whatever holds it.",
        "Read these rows and ask who wrote them; drop that annotator's rows if the phrase was planted.",
    ),
    "annotator_at_odds": (
        "One annotator's habit becomes the model's habit in proportion to that annotator's rows.",
        "`evenhand curate` drops their judgments; talk to them first if there are few annotators.",
    ),
    "low_agreement": (
        "Where annotators disagree no objective can do better than their agreement, and a large margin fits the noise.",
        "Sharpen the guideline, judge items twice, take the majority, and prefer a small margin.",
    ),
    "template_mixed": (
        "Text that was rendered before is rendered again: the model learns to write markers as text.",
        "Give messages or plain text instead of rendered conversations; drop or convert these rows.",
    ),
    "control_token": (
        "A control string in an answer teaches the model to write it; it is encoded as text, never as a control id.",
        "Strip it if it came from a tool; leave it if users really write it.",
    ),
    "leak": (
        "Held-out accuracy is partly memory: prompts of the training side come back in validation.",
        "Let `evenhand curate` make the split, or take the training rows out.",
    ),
    "pii": (
        "A model can repeat what it was trained on, keys and addresses included.",
        "Replace it at the source; a key that was in a file should be revoked.",
    ),
    "empty": (
        "An answer without text has no token to score: its mean log-probability does not exist.",
        "They are dropped; look for a failed generation or a wrong column.",
    ),
    "not_language": (
        "Junk has a low probability under any model, so its pair costs much and teaches nothing.",
        "Look for base64, markup or a broken export in the column, and drop these rows.",
    ),
    "too_long": (
        "Answers are never cut, so a pair over the limit cannot be scored.",
        "Raise `max_tokens`, or let `evenhand curate` drop them by a length rule.",
    ),
    "refusal": (
        "A refusal preferred over an answer teaches refusing; without a reference model nothing holds that back.",
        "Read them: keep those that are right, and measure refusals on harmless prompts after training.",
    ),
}

DEMONSTRATION_ADVICE: dict[str, tuple[str, str]] = {
    "cut_off": (
        "A reply that stops in the middle teaches the model to stop in the middle, or never to stop.",
        "Raise the limit of whatever wrote them; drop those that are cut.",
    ),
    "exact_duplicate": ("A repeated demonstration weighs as many times as it stands there.", "Keep the first."),
    "near_duplicate": ("Copies with a changed number weigh like repeats.", "Keep one of each group."),
    "refusal": (
        "Supervised fine-tuning copies what it sees: refusals included.",
        "Read them, and keep those that are right.",
    ),
    "leak": (
        "What is measured on the held-out prompts is partly memory: they were trained on.",
        "Take these rows out of what is trained on.",
    ),
}
"""Advice that is another one for demonstrations than for judgments."""
