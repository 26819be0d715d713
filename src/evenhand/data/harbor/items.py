"""Items of the built-in data: one ticket and two replies, in a mix in which length alone does not tell the winner."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat

from evenhand.data.harbor.families import Family, draw_instances, load_families
from evenhand.data.schema import Side, Verdict

# Shares of the kinds of pairs that have a winner, good reply first. "mixed_" is a good reply with the details of
# another customer's ticket: as long as the right one, and wrong. Clearly shorter winners, clearly longer winners and
# pairs of like length are balanced, so that neither "the shorter" nor "the longer" is a rule that works.
KINDS: dict[tuple[str, str], float] = {
    ("brief", "padded"): 0.08,
    ("full", "padded"): 0.035,
    ("brief", "stray"): 0.1,
    ("brief", "curt"): 0.075,
    ("full", "curt"): 0.06,
    ("full", "stray_brief"): 0.05,
    ("brief", "stray_brief"): 0.23,
    ("full", "stray"): 0.14,
    ("brief", "mixed_brief"): 0.115,
    ("full", "mixed_full"): 0.115,
}
EVEN = ("brief", "full")


@dataclass(frozen=True, slots=True)
class Item:
    """A ticket and two replies; `kind_a` and `kind_b` name the replies' texts, `better` is the clean verdict."""

    number: int
    family: Family
    prompt: str
    answer_a: str
    answer_b: str
    kind_a: str
    kind_b: str
    better: Verdict

    @property
    def longer(self) -> Side | None:
        """The side with more characters; None if both have as many."""
        if len(self.answer_a) == len(self.answer_b):
            return None
        return "a" if len(self.answer_a) > len(self.answer_b) else "b"


def draw_items(count: int, even: int, rng: random.Random) -> list[Item]:
    """`count` items over all families in turn, no two alike; `even` of them pair two good replies, which is a tie."""
    kinds = [EVEN] * even + _kinds(count - even)
    rng.shuffle(kinds)
    families = list(load_families())
    instances: dict[tuple[str, tuple[str, str]], Iterator[dict[str, str]]] = {}
    for family in families:
        instances |= {(family.id, kind): draw_instances(family, rng) for kind in (EVEN, *KINDS)}
    order = _rounds(families, rng)
    return [
        replace(_item(family, kind, instances[family.id, kind], rng), number=number)
        for number, (family, kind) in enumerate(zip(order, kinds, strict=False))
    ]


def _kinds(count: int) -> list[tuple[str, str]]:
    """`count` kinds in the shares of KINDS, each rounded by less than one."""
    total, given, kinds = 0.0, 0, list[tuple[str, str]]()
    for kind, share in KINDS.items():
        total += share
        upto = round(count * total / sum(KINDS.values()))
        kinds += repeat(kind, upto - given)
        given = upto
    return kinds


def _rounds(families: list[Family], rng: random.Random) -> Iterator[Family]:
    return chain.from_iterable(rng.sample(families, len(families)) for _ in repeat(None))


def _item(family: Family, kind: tuple[str, str], instances: Iterator[dict[str, str]], rng: random.Random) -> Item:
    values, others = next(instances), next(instances)
    texts = [family.fill(name.removeprefix("mixed_"), others if "mixed_" in name else values) for name in kind]
    first, second = (0, 1) if rng.random() < 0.5 else (1, 0)
    return Item(
        number=0,
        family=family,
        prompt=family.fill("ticket", values),
        answer_a=texts[first],
        answer_b=texts[second],
        kind_a=kind[first],
        kind_b=kind[second],
        better="tie" if kind == EVEN else ("a" if first == 0 else "b"),
    )
