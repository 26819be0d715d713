"""The annotators of the built-in data: honest ones, one who takes the longer reply, one who takes the first shown."""

import random
from dataclasses import dataclass

from evenhand.data.harbor.flaws import Flaws
from evenhand.data.harbor.items import Item
from evenhand.data.harbor.truth import Planted
from evenhand.data.schema import Side, Verdict

NAMES = (
    "adaeze", "bjorn", "carmen", "dmitri", "emeka", "farida", "gwen", "hiroshi",
    "ivana", "jonas", "keiko", "lucia", "magnus", "noor", "oisin", "paloma",
)  # fmt: skip
SIZE = 5
_ERRS_TO_TIE = 0.15


@dataclass(frozen=True, slots=True)
class Crew:
    """Five annotators with their shares of the judgments; `noise` is how often an honest one errs."""

    shares: dict[str, float]
    length_lover: str | None
    first_lover: str | None
    noise: float

    @property
    def honest(self) -> tuple[str, ...]:
        """Those who look at what the replies say."""
        return tuple(name for name in self.shares if name not in (self.length_lover, self.first_lover))

    @property
    def honest_share(self) -> float:
        """Their share of all judgments."""
        return sum(self.shares[name] for name in self.honest)


def draw_crew(flaws: Flaws, rng: random.Random) -> Crew:
    """Five of NAMES; which of them are biased, if any, is drawn too."""
    names = rng.sample(NAMES, SIZE)
    length_lover = names[0] if flaws.length_lover > 0 else None
    first_lover = names[1] if flaws.first_lover > 0 else None
    biased = {length_lover: flaws.length_lover, first_lover: flaws.first_lover}
    honest = [name for name in names if name not in biased]
    even = (1 - flaws.length_lover - flaws.first_lover) / len(honest)
    return Crew({name: biased.get(name, even) for name in sorted(names)}, length_lover, first_lover, flaws.noise)


def draw_panel(crew: Crew, size: int, rng: random.Random) -> tuple[str, ...]:
    """`size` different annotators, each drawn by its share."""
    left = dict(crew.shares)
    panel = []
    for _ in range(size):
        panel.append(rng.choices(list(left), list(left.values()))[0])
        del left[panel[-1]]
    return tuple(panel)


def judge(crew: Crew, name: str, item: Item, first: Side, rng: random.Random) -> tuple[Verdict, Planted]:
    """The verdict of `name` on an item whose side `first` was shown first, and the class of that judgment."""
    if name == crew.length_lover:
        return item.longer or first, "length_lover"
    if name == crew.first_lover:
        return first, "first_lover"
    verdict = item.better if rng.random() >= crew.noise else _error(item.better, rng)
    return verdict, "tie" if verdict == "tie" else "clean"


def _error(better: Verdict, rng: random.Random) -> Verdict:
    """What an honest annotator says who misses the clean verdict."""
    if better == "tie":
        return rng.choice(("a", "b"))
    if rng.random() < _ERRS_TO_TIE:
        return "tie"
    return "b" if better == "a" else "a"
