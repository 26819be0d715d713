"""What the winner could be told from without reading: length, place on the screen, lists, markup, apologies.

Shapes: D decided judgments.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evenhand.data.agreement import agreement, shared_ratings
from evenhand.data.bias import first_won, longer_won, share, share_of_true
from evenhand.data.items import Ballot, Identity
from evenhand.data.marks import FEATURES
from evenhand.figure import Figure, Z

_CATEGORIES = 200


@dataclass(frozen=True, slots=True)
class CategoryFigures:
    """One category's figures; each n counts the judgments, or for alpha the shared items, that it rests on."""

    name: str
    judgments: int
    ties: Figure
    longer_is_chosen: Figure
    length_only_auc: Figure
    first_shown_is_chosen: Figure
    krippendorff_alpha: Figure

    def json(self) -> dict[str, object]:
        """The category as a report states it."""
        return {
            "category": self.name,
            "judgments": self.judgments,
            "ties": self.ties.json(),
            "longer_is_chosen": self.longer_is_chosen.json(),
            "length_only_auc": self.length_only_auc.json(),
            "first_shown_is_chosen": self.first_shown_is_chosen.json(),
            "krippendorff_alpha": self.krippendorff_alpha.json(),
        }


def length_auc(ballots: Iterable[Ballot]) -> Figure:
    """Area under the ROC curve of telling the winner by the difference in length alone; 0.5 tells nothing.

    Each judgment counts in both orders, so that it does not matter which answer was written as a: the area is the
    chance that d + e > 0 for two judgments' differences d and e, winner minus loser in characters (half where 0). The
    interval is that of a U-statistic (Hoeffding 1948).
    """
    ahead_D = np.sort(
        np.array(
            [(b.length_a - b.length_b) * (1 if b.verdict == "a" else -1) for b in ballots if b.verdict != "tie"],
            np.int64,
        )
    )
    count = len(ahead_D)
    if count < 2:
        return Figure(None, count)
    over_D = count - np.searchsorted(ahead_D, -ahead_D, side="right")
    even_D = count - over_D - np.searchsorted(ahead_D, -ahead_D, side="left")
    # Each judgment against the others: the pair of a judgment with itself is taken out.
    own_D = np.where(ahead_D > 0, 1.0, np.where(ahead_D == 0, 0.5, 0.0))
    wins_D = (over_D + even_D / 2 - own_D) / (count - 1)
    value, half = float(wins_D.mean()), Z * 2 * float(wins_D.std(ddof=1)) / math.sqrt(count)
    return Figure(value, count, max(0.0, value - half), min(1.0, value + half))


def feature_figures(ballots: Sequence[Ballot], marks: Sequence[int]) -> dict[str, Figure]:
    """By feature, how often the answer that has it wins over the one that has it not."""
    return {
        name: share_of_true([_feature_won(own, bits, a, b) for own, bits in zip(ballots, marks, strict=True)])
        for name, (a, b) in FEATURES.items()
    }


def category_figures(ballots: Sequence[Ballot], same: Sequence[Identity]) -> tuple[CategoryFigures, ...]:
    """The figures of each given category, largest first, at most 200; nothing where no category was given."""
    places: dict[str, list[int]] = defaultdict(list)
    for at, own in enumerate(ballots):
        if own.category is not None:
            places[own.category].append(at)
    largest = sorted(places.items(), key=lambda item: (-len(item[1]), item[0]))[:_CATEGORIES]
    return tuple(_category(name, [ballots[at] for at in own], [same[at] for at in own]) for name, own in largest)


def _category(name: str, ballots: Sequence[Ballot], same: Sequence[Identity]) -> CategoryFigures:
    return CategoryFigures(
        name,
        len(ballots),
        ties=share(sum(own.verdict == "tie" for own in ballots), len(ballots)),
        longer_is_chosen=share_of_true([longer_won(own) for own in ballots]),
        length_only_auc=length_auc(ballots),
        first_shown_is_chosen=share_of_true([first_won(own) for own in ballots]),
        krippendorff_alpha=agreement(shared_ratings(ballots, same)).krippendorff_alpha,
    )


def _feature_won(own: Ballot, bits: int, a: int, b: int) -> bool | None:
    """Whether the one answer with the feature won; None for a tie, or where both answers have it or neither."""
    in_a, in_b = bool(bits & a), bool(bits & b)
    if own.verdict == "tie" or in_a == in_b:
        return None
    return in_a == (own.verdict == "a")
