"""Training and validation pairs: whole prompt families on one side, alike in category and response length.

Shapes: N pairs, S strata.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evenhand.data.bench import CurationRules
from evenhand.data.category import category_of
from evenhand.data.curate import families
from evenhand.data.items import prompt_text
from evenhand.data.schema import PreferencePair
from evenhand.errors import DataError

Stratum = tuple[str, int]

_QUARTILES = (0.25, 0.5, 0.75)
_PASSES = 3
_TOO_LITTLE = 1e-9


@dataclass(frozen=True, slots=True)
class StratumShare:
    """How one stratum was divided: pairs of one category and one quartile (1 shortest to 4) of chosen length."""

    category: str
    quartile: int
    train: int
    validation: int

    def json(self) -> dict[str, Any]:
        """The row of the split's table."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Split:
    """The two sides, each sorted by content hash, and the table that shows how every stratum was divided.

    `edges` are the quartile bounds of the chosen answer's length in characters; `largest_family` counts the pairs of
    the largest family, which cannot be divided.
    """

    train: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    table: tuple[StratumShare, ...]
    edges: tuple[float, ...]
    wanted: float
    seed: int
    families: int
    largest_family: int

    @property
    def share(self) -> float:
        """The validation side's share of all pairs."""
        return len(self.validation) / (len(self.train) + len(self.validation))

    def json(self) -> dict[str, Any]:
        """Everything but the pairs."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "wanted": self.wanted,
            "share": self.share,
            "seed": self.seed,
            "families": self.families,
            "largest_family": self.largest_family,
            "length_edges_characters": list(self.edges),
            "table": [row.json() for row in self.table],
        }


def split(pairs: Sequence[PreferencePair], validation: float, seed: int) -> Split:
    """Put whole families into validation until it holds the share `validation` of all pairs and of each stratum.

    The families come in an order drawn by `seed` from their names, so the same pairs in any order give the same
    split. A pair without a family gets that of `curate.families`. Raises DataError if `validation` is not between 0
    and 1, or if one side would be empty because there are too few families.
    """
    if not 0 < validation < 1:
        raise DataError(
            f"validation is {validation}; give the share of pairs to hold out, between 0 and 1, such as 0.1."
        )
    ordered = sorted(pairs, key=_content)
    members = _members(ordered)
    edges, strata = _strata(ordered)
    held_out = _held_out(members, strata, validation, seed)
    held = {at for family in held_out for at in members[family]}
    if not 0 < len(held) < len(ordered):
        raise DataError(
            f"{len(pairs)} pairs in {len(members)} prompt families cannot be split with validation {validation}: one "
            "side would be empty. Give more pairs or another share, or name the files for each side yourself."
        )
    return Split(
        train=tuple(pair for at, pair in enumerate(ordered) if at not in held),
        validation=tuple(pair for at, pair in enumerate(ordered) if at in held),
        table=_table(strata, held),
        edges=edges,
        wanted=validation,
        seed=seed,
        families=len(members),
        largest_family=max(map(len, members.values())),
    )


def _content(pair: PreferencePair) -> tuple[bytes, str]:
    """An order that depends on what a pair says, then on its id."""
    text = "\x1f".join((prompt_text(pair.prompt), pair.chosen, pair.rejected))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), pair.id


def _members(pairs: Sequence[PreferencePair]) -> dict[str, list[int]]:
    """The places of each family's pairs; families are computed only if a pair has none."""
    names = [pair.family for pair in pairs]
    if None in names:
        texts = [prompt_text(pair.prompt) for pair in pairs]
        names = list(families(texts, names, CurationRules().families))
    members: dict[str, list[int]] = defaultdict(list)
    for at, name in enumerate(names):
        members[name or ""].append(at)
    return members


def _strata(pairs: Sequence[PreferencePair]) -> tuple[tuple[float, ...], list[Stratum]]:
    """The quartile edges of the chosen answers' lengths in characters, and each pair's stratum."""
    lengths_N = np.array([len(pair.chosen) for pair in pairs], np.int64)
    edges = np.quantile(lengths_N, _QUARTILES) if pairs else np.zeros(len(_QUARTILES))
    quartile_N = 1 + np.searchsorted(edges, lengths_N, side="left")
    names = [pair.category or category_of(pair.prompt) for pair in pairs]
    return tuple(map(float, edges)), list(zip(names, quartile_N.tolist()))


def _held_out(members: Mapping[str, list[int]], strata: Sequence[Stratum], share: float, seed: int) -> set[str]:
    """The families for validation: moved over, or back, as long as that brings the counts nearer to the share.

    Nearer means a smaller sum over strata, and over the whole, of squared distance from the wanted count divided by
    size. The last passes weigh the whole so much that it comes within half a family of the share where one fits.
    """
    size = Counter(strata)
    goal, total, held = share * len(strata), 0, Counter[Stratum]()
    parts = {family: Counter(strata[at] for at in places) for family, places in members.items()}
    order = sorted(members, key=lambda family: hashlib.sha256(f"{seed} {family}".encode()).digest())
    taken: set[str] = set()
    for weight in (1 / max(1, len(strata)),) * _PASSES + (1.0,) * _PASSES:
        for family in order:
            sign, part = (-1 if family in taken else 1), parts[family]
            change = weight * _change(total, sign * len(members[family]), goal)
            change += sum(_change(held[own], sign * more, share * size[own]) / size[own] for own, more in part.items())
            if change < -_TOO_LITTLE:
                taken ^= {family}
                total += sign * len(members[family])
                held.update({own: sign * more for own, more in part.items()})
    return taken


def _change(held: int, more: int, goal: float) -> float:
    """By how much the squared distance from the goal grows."""
    return (held + more - goal) ** 2 - (held - goal) ** 2


def _table(strata: Sequence[Stratum], held: set[int]) -> tuple[StratumShare, ...]:
    size, inside = Counter(strata), Counter(strata[at] for at in held)
    return tuple(StratumShare(*own, size[own] - inside[own], inside[own]) for own in sorted(size))
