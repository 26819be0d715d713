"""Several answers of one model to a prompt, scored: which of them become a judgment, a ranking or a demonstration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from evenhand.data.schema import Message
from evenhand.files import canonical_json, sha256

Conversation = tuple[Message, ...]
# pair: best against worst; ranking: all, with their scores; best: the best alone, to be imitated.
Keep = Literal["pair", "ranking", "best"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One drawn answer: its text, its score, and whether it ended by itself."""

    text: str
    score: float
    ended: bool

    def json(self) -> dict[str, Any]:
        """As it is kept while sampling goes on."""
        return {"text": self.text, "score": self.score, "ended": self.ended}


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt with its candidates; `scorer` is written down as the annotator of what is chosen, `family` as in a Task."""

    prompt: Conversation
    candidates: tuple[Candidate, ...]
    scorer: str
    family: str | None = None

    @property
    def name(self) -> str:
        """An id that follows from the prompt and what was said to it."""
        texts = [candidate.text for candidate in self.candidates]
        return sha256(canonical_json([[message.json() for message in self.prompt], texts]))[:16]

    @property
    def ranked(self) -> list[Candidate]:
        """Different answers that say something and end by themselves, the best first: a cut answer teaches no end."""
        first: dict[str, Candidate] = {}
        for candidate in self.candidates:
            if candidate.ended and candidate.text.strip():
                first.setdefault(candidate.text.strip(), candidate)
        return sorted(first.values(), key=lambda candidate: -candidate.score)

    def pair(self) -> dict[str, Any] | None:
        """Best against worst as a judgment, the winner a or b by chance; None where the two have one score.

        >>> says = Choice((Message("user", "Hi"),), (Candidate("No", 0.0, True), Candidate("Yes", 1.0, True)), "own")
        >>> row = says.pair()
        >>> row["answer_" + row["verdict"]]
        'Yes'
        """
        ranked = self.ranked
        if not ranked or ranked[0].score == ranked[-1].score:
            return None
        best, worst = ranked[0], ranked[-1]
        winner = "ab"[int(self.name, 16) % 2]  # so that no place wins more often than the other
        first, second = (best, worst) if winner == "a" else (worst, best)
        return self._row({"answer_a": first.text, "answer_b": second.text, "verdict": winner})

    def ranking(self) -> dict[str, Any] | None:
        """All answers with their scores; None where they all have one score."""
        ranked = self.ranked
        if not ranked or ranked[0].score == ranked[-1].score:
            return None
        return self._row({"responses": [c.text for c in ranked], "scores": [c.score for c in ranked]})

    def best(self) -> dict[str, Any] | None:
        """The best answer as a demonstration; None where no answer ended."""
        ranked = self.ranked
        return self._row({"response": ranked[0].text}) if ranked else None

    def _row(self, rest: dict[str, Any]) -> dict[str, Any]:
        prompt = [message.json() for message in self.prompt]
        return {"id": self.name, "prompt": prompt, **rest, "annotator": self.scorer}


CHOOSE: dict[str, Callable[[Choice], dict[str, Any] | None]] = {
    "pair": Choice.pair,
    "ranking": Choice.ranking,
    "best": Choice.best,
}
