"""The built-in judgments of Harbor Support: drawn from a seed, with known flaws and the truth about every line."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from evenhand.data.harbor.crew import Crew, draw_crew, draw_panel, judge
from evenhand.data.harbor.flaws import USUAL, Flaws, line_of, malform, reword
from evenhand.data.harbor.items import Item, draw_items
from evenhand.data.harbor.truth import Harbor, Planted, Truth
from evenhand.data.schema import Side, Verdict
from evenhand.errors import DataError
from evenhand.files import canonical_json, write_whole

FEWEST = 50
_START = datetime(2025, 1, 6, 8)


@dataclass(frozen=True, slots=True)
class Draft:
    """A line in the making; `original` is the id of the row that a duplicate repeats."""

    item: Item
    row: dict[str, str]
    planted: Planted
    line: str
    detail: str | None = None
    original: str | None = None


def harbor(seed: int, flaws: Flaws = USUAL, judgments: int = 2400) -> Harbor:
    """`judgments` lines with planted `flaws`; the same arguments always give the same bytes.

    Raises DataError for fewer than 50 judgments, and where the flaws want more clean judgments than there are.
    """
    if judgments < FEWEST:
        raise DataError(f"harbor: {judgments} judgments are too few to plant flaws in; ask for at least {FEWEST}.")
    rng = random.Random(seed)
    crew = draw_crew(flaws, rng)
    exact, near = round(flaws.exact_duplicates * judgments), round(flaws.near_duplicates * judgments)
    drafts = _judged(judgments - exact - near, flaws, crew, rng)
    drafts = _with_contradictions(drafts, round(flaws.contradictions * judgments), rng)
    drafts = _with_malformed(drafts, round(flaws.malformed * judgments), rng)
    drafts = _with_duplicates(drafts, (exact, near), crew, rng)
    return _finished(drafts, crew, rng)


def write_harbor(folder: Path, seed: int, flaws: Flaws = USUAL, judgments: int = 2400) -> Harbor:
    """Write `judgments.jsonl` and `truth.jsonl` into `folder`, each whole, and return what they hold."""
    made = harbor(seed, flaws, judgments)
    write_whole(folder / "judgments.jsonl", "".join(f"{line}\n" for line in made.lines))
    write_whole(folder / "truth.jsonl", b"".join(canonical_json(truth.json()) + b"\n" for truth in made.truth))
    return made


def _judged(rows: int, flaws: Flaws, crew: Crew, rng: random.Random) -> list[Draft]:
    """`rows` judgments of as many items as that takes, when a share of the items is judged by 2 or 3 annotators."""
    sizes: list[int] = []
    while (left := rows - sum(sizes)) > 0:
        sizes.append(min(left, rng.choice((2, 3)) if rng.random() < flaws.repeated else 1))
    ties = min(1.0, flaws.ties * _rows_per_tie(crew)) * len(sizes)
    items = draw_items(len(sizes), round(ties), rng)
    panels = [draw_panel(crew, size, rng) for size in sizes]
    return [_draft(item, name, crew, rng) for item, panel in zip(items, panels, strict=True) for name in panel]


def _rows_per_tie(crew: Crew) -> float:
    """How many judgments of two good replies it takes to get one verdict of a tie."""
    return 1 / max(crew.honest_share * (1 - crew.noise), 0.1)


def _draft(item: Item, name: str, crew: Crew, rng: random.Random) -> Draft:
    first: Side = rng.choice(("a", "b"))
    verdict, planted = judge(crew, name, item, first, rng)
    return _drafted(item, _row(item, verdict, name, first), planted, rng)


def _row(item: Item, verdict: Verdict, name: str, first: Side) -> dict[str, str]:
    return {
        "id": "",
        "prompt": item.prompt,
        "answer_a": item.answer_a,
        "answer_b": item.answer_b,
        "verdict": verdict,
        "annotator": name,
        "shown_first": first,
        "time": "",
        "category": item.family.category,
    }


def _drafted(item: Item, row: dict[str, str], planted: Planted, rng: random.Random) -> Draft:
    """A draft of `row` under an id and a time of its own."""
    when = _START + timedelta(days=rng.randrange(60), minutes=rng.randrange(600), seconds=rng.randrange(60))
    row = {**row, "id": f"{rng.getrandbits(48):012x}", "time": f"{when.isoformat()}Z"}
    return Draft(item, row, planted, line_of(row))


def _with_contradictions(drafts: list[Draft], wanted: int, rng: random.Random) -> list[Draft]:
    """Class what honest annotators contradict each other on; top up to `wanted` rows by judging items again."""
    drafts = _contradictions_marked(drafts)
    have = sum(draft.planted == "contradiction" for draft in drafts)
    free = _clean_singles(drafts, wanted - have + 1 if have < wanted else 0, rng)
    while have < wanted:
        kept, replaced = free.pop(), free.pop()
        row = drafts[kept].row
        flipped = {**row, "verdict": "b" if row["verdict"] == "a" else "a", "shown_first": rng.choice("ab")}
        drafts[replaced] = _drafted(drafts[kept].item, flipped, "contradiction", rng)
        drafts[kept] = replace(drafts[kept], planted="contradiction")
        have += 2
    return drafts


def _contradictions_marked(drafts: list[Draft]) -> list[Draft]:
    winners: dict[int, set[str]] = {}
    for draft in drafts:
        if draft.planted == "clean":
            winners.setdefault(draft.item.number, set()).add(draft.row["verdict"])
    opposed = {item for item, verdicts in winners.items() if len(verdicts) > 1}
    return [
        replace(draft, planted="contradiction") if draft.planted == "clean" and draft.item.number in opposed else draft
        for draft in drafts
    ]


def _clean_singles(drafts: Sequence[Draft], wanted: int, rng: random.Random) -> list[int]:
    """Places of clean judgments whose item is judged once, shuffled: what flaws may be planted on, `wanted` or more."""
    times = Counter(draft.item.number for draft in drafts)
    places = [place for place, draft in enumerate(drafts) if draft.planted == "clean" and times[draft.item.number] == 1]
    if len(places) < wanted:
        raise DataError(
            f"harbor: flaws are to be planted on {wanted} clean judgments and {len(places)} are left; "
            "lower the rates of `Flaws`, or ask for more judgments."
        )
    rng.shuffle(places)
    return places


def _with_malformed(drafts: list[Draft], wanted: int, rng: random.Random) -> list[Draft]:
    for place in _clean_singles(drafts, wanted, rng)[:wanted]:
        line, kind = malform(drafts[place].row, rng)
        drafts[place] = replace(drafts[place], planted="malformed", line=line, detail=kind)
    return drafts


def _with_duplicates(drafts: list[Draft], wanted: tuple[int, int], crew: Crew, rng: random.Random) -> list[Draft]:
    """Add exact and near duplicates, `wanted` of each; every original is repeated once at most."""
    places = _clean_singles(drafts, sum(wanted), rng)
    exact = [_exact(drafts[place], rng) for place in places[: wanted[0]]]
    near = [_near(drafts[place], crew, rng) for place in places[wanted[0] : sum(wanted)]]
    return drafts + exact + near


def _exact(draft: Draft, rng: random.Random) -> Draft:
    copy = _drafted(draft.item, draft.row, "exact_duplicate", rng)
    return replace(copy, original=draft.row["id"])


def _near(draft: Draft, crew: Crew, rng: random.Random) -> Draft:
    row, edits = reword(draft.row, rng)
    row["annotator"] = rng.choice((row["annotator"], rng.choice(crew.honest)))
    row["shown_first"] = rng.choice("ab")
    copy = _drafted(draft.item, row, "near_duplicate", rng)
    return replace(copy, detail=edits, original=draft.row["id"])


def _finished(drafts: list[Draft], crew: Crew, rng: random.Random) -> Harbor:
    """Shuffle the drafts, duplicates below their originals, and write the truth about each."""
    rng.shuffle(drafts)
    drafts = _originals_first(drafts)
    places = {draft.row["id"]: place for place, draft in enumerate(drafts)}
    truth = tuple(_truth(draft, places) for draft in drafts)
    return Harbor(tuple(draft.line for draft in drafts), truth, crew.length_lover, crew.first_lover)


def _originals_first(drafts: list[Draft]) -> list[Draft]:
    places = {draft.row["id"]: place for place, draft in enumerate(drafts)}
    ordered = list(drafts)
    for place, draft in enumerate(drafts):
        if draft.original is not None and (other := places[draft.original]) > place:
            ordered[place], ordered[other] = ordered[other], ordered[place]
    return ordered


def _truth(draft: Draft, places: dict[str, int]) -> Truth:
    item = draft.item
    return Truth(
        row=places[draft.row["id"]],
        id=draft.row["id"],
        item=item.number,
        category=item.family.category,
        family=item.family.id,
        prompt_template=f"{item.family.id}.ticket",
        template_a=f"{item.family.id}.{item.kind_a}",
        template_b=f"{item.family.id}.{item.kind_b}",
        clean_verdict=item.better,
        planted=draft.planted,
        detail=draft.detail,
        original=None if draft.original is None else places[draft.original],
    )
