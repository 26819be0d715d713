"""What may be said of a change, in one honest sentence: "better" only where the interval excludes zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evenhand.figure import Figure

Word = Literal["better", "worse", "undecided"]

TITLES: dict[Word, str] = {"better": "Better", "worse": "Worse", "undecided": "Not shown to be better"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word, the sentence that carries its numbers, and what a reader should know before acting on it."""

    word: Word
    sentence: str
    cautions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The word as a person reads it."""
        return TITLES[self.word]


def word_for(difference: Figure) -> Word:
    """`better` or `worse` where the whole interval lies on one side of zero, else `undecided`.

    >>> word_for(Figure(0.04, 200, -0.01, 0.09)), word_for(Figure(0.04, 900, 0.01, 0.07))
    ('undecided', 'better')
    """
    if difference.low is not None and difference.low > 0:
        return "better"
    if difference.high is not None and difference.high < 0:
        return "worse"
    return "undecided"


def verdict(before: Figure, after: Figure, differences: Mapping[str, Figure]) -> Verdict:
    """The verdict on pairwise accuracy `before` and `after`; `differences` are after minus before, by name.

    `pairwise_accuracy` decides. `length_balanced_accuracy`, `ended` and `repetition`, where given, add cautions.
    """
    difference = differences["pairwise_accuracy"]
    word = word_for(difference)
    return Verdict(word, _sentence(word, before, after, difference), tuple(_cautions(word, differences)))


def verdict_on_rewards(before: Figure, after: Figure, differences: Mapping[str, Figure]) -> Verdict:
    """The verdict on the mean reward of replies, which decides where a model was trained for rewards."""
    moved = differences.get("reward", Figure(None, 0))
    word = word_for(moved)
    if before.value is None or after.value is None or moved.value is None or moved.low is None or moved.high is None:
        return Verdict("undecided", "The reward of replies was not measured with an interval.", ())
    change, low, high = (f"{value:+.3f}".replace("-", "−") for value in (moved.value, moved.low, moved.high))
    then, now = (f"{value:.3f}".replace("-", "−") for value in (before.value, after.value))
    tail = "; the interval includes zero." if word == "undecided" else "."
    said = (
        f"On {moved.n:,} held-out prompts the mean reward of replies went from {then} to {now} ({change}, 95 % interval {low} to "
        f"{high}){tail}"
    )
    accuracy = differences.get("pairwise_accuracy")
    fell = (
        [f"The model prefers chosen answers less often{_of(accuracy)}."]
        if accuracy and word_for(accuracy) == "worse"
        else []
    )
    return Verdict(word, said, (*fell, *_replies(differences)))


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> points(-0.0312)
    '−3.1'
    """
    text = f"{value * 100:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def percent(value: float) -> str:
    """A share in percent.

    >>> percent(0.6649)
    '66.5 %'
    """
    return f"{value * 100:.1f} %"


def _sentence(word: Word, before: Figure, after: Figure, difference: Figure) -> str:
    if before.value is None or after.value is None or difference.value is None:
        return "Nothing was measured: there is no held-out pair that both models were scored on."
    if difference.low is None or difference.high is None:
        return (
            f"Accuracy moved by {points(difference.value)} points, without an interval that could tell it from chance."
        )
    moved = _of(difference)
    now, then, count = percent(after.value), percent(before.value), f"{difference.n:,}"
    if word == "undecided":
        return f"On {count} held-out pairs accuracy went from {then} to {now}{moved}; the interval includes zero."
    way = "up" if word == "better" else "down"
    chosen = "the model prefers the chosen answer"
    return f"On {count} held-out pairs {chosen} {now} of the time, {way} from {then}{moved}."


def _cautions(word: Word, differences: Mapping[str, Figure]) -> list[str]:
    found = []
    balanced = differences.get("length_balanced_accuracy")
    if word == "better" and balanced is not None and word_for(balanced) != "better":
        found.append(
            f"Length-balanced accuracy, which length alone cannot raise, is not shown to be better{_of(balanced)}."
        )
    return found + _replies(differences)


def _replies(differences: Mapping[str, Figure]) -> list[str]:
    found = []
    ended, repeated = differences.get("ended"), differences.get("repetition")
    if ended is not None and word_for(ended) == "worse":
        found.append(f"Fewer replies end by themselves{_of(ended)}.")
    if repeated is not None and word_for(repeated) == "better":
        found.append(f"Replies repeat themselves more{_of(repeated)}.")
    return found


def _of(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return " (not measured)"
    return f" ({points(figure.value)} points, 95 % interval {points(figure.low)} to {points(figure.high)})"
