"""`evenhand compare`: every candidate against the first model named, on the same rows, as JSON and as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.data.columns import column_values
from evenhand.data.schema import PreferencePair
from evenhand.errors import DataError
from evenhand.evaluation.comparison import Scored, compare
from evenhand.evaluation.comparison_page import Told
from evenhand.evaluation.difference import difference_of_replies
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.interval import Sample, family_codes, student_mean
from evenhand.evaluation.preference import PairTraits
from evenhand.figure import Figure, figure
from evenhand.lifecycle.entrant import Entrant


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparisons in the order of the candidates; `value` is what `--json` prints."""

    told: tuple[Told, ...]
    value: dict[str, Any]


def compare_entrants(
    given: Sequence[Entrant], columns: tuple[str, Sequence[str]] | None = None, judged: Sequence[dict[str, Any]] = ()
) -> Compared:
    """Compare each entrant with the first; `columns` are a data file and its columns to slice by.

    `judged` are win rates by candidate's name. Raises DataError where two were not scored on the same pairs.
    """
    baseline, *candidates = given
    traits, texts = traits_of(baseline.scored, given, columns)
    told = tuple(_told((baseline, own), traits, texts, (len(candidates), judged)) for own in candidates)
    parts = [_value(own) for own in told]
    value = parts[0] if len(parts) == 1 else parts[0] | {"comparisons": parts}
    return Compared(told, value)


def traits_of(
    scored: Scored, given: Sequence[Entrant], columns: tuple[str, Sequence[str]] | None
) -> tuple[PairTraits | None, tuple[PreferencePair, ...]]:
    """Families, categories and columns of the scored pairs, and their texts, as far as any entrant knows them."""
    texts = next((own.texts for own in given if own.texts), ())
    try:
        traits = PairTraits.of(scored.pairs, texts) if texts else None
    except DataError:
        traits, texts = None, ()
    if columns is None or not columns[1]:
        return traits, texts
    found = column_values(*columns, scored.pairs.row_B.tolist())
    return (traits or PairTraits.unknown(len(scored.pairs))).with_columns(found), texts


def _told(
    sides: tuple[Entrant, Entrant],
    traits: PairTraits | None,
    texts: Sequence[PreferencePair],
    among: tuple[int, Sequence[dict[str, Any]]],
) -> Told:
    baseline, candidate = sides
    rivals, judged = among
    costs = tuple(own.cost.json() if own.cost else None for own in sides)
    return Told(
        comparison=compare(baseline.scored, candidate.scored, traits, rivals),
        texts=texts,
        replies=(baseline.replies, candidate.replies),
        costs=(costs[0], costs[1]),
        drifts=(baseline.drift, candidate.drift),
        production=(baseline.production, candidate.production),
        reply_differences=reply_differences(baseline.replies, candidate.replies),
        judged=[own for own in judged if own["candidate"] == candidate.name],
    )


def reply_differences(before: Generation | None, after: Generation | None) -> dict[str, Figure]:
    """Paired differences of the replies, of their lengths too; none where the two did not answer the same prompts."""
    if before is None or after is None or [r.prompt for r in before.replies] != [r.prompt for r in after.replies]:
        return {}
    family_B = family_codes(before.family, len(before.replies))
    lengths = {
        name: np.array(
            [getattr(two, name) - getattr(one, name) for one, two in zip(before.replies, after.replies)], np.float64
        )
        for name in ("tokens", "characters")
    }
    return difference_of_replies(before, after) | {
        name: student_mean(Sample(value_B, family_B)) for name, value_B in lengths.items()
    }


def _value(told: Told) -> dict[str, Any]:
    one, other = told.replies
    return told.comparison.json() | {
        "replies": {
            "baseline": one.json() if one else None,
            "candidate": other.json() if other else None,
            "differences": {name: figure.json() for name, figure in told.reply_differences.items()},
        },
        "training": {"baseline": told.costs[0], "candidate": told.costs[1]},
        "drift": {"baseline": told.drifts[0], "candidate": told.drifts[1]},
        "production": {"baseline": told.production[0], "candidate": told.production[1]},
        "judged": [dict(own) for own in told.judged],
    }


def words(value: dict[str, Any], page: Path | None) -> str:
    """The comparison for a person."""
    lines = []
    for part in value.get("comparisons", [value]):
        lines += [*_part_words(part), ""]
    return "\n".join(lines + ([f"page: {page}"] if page else [])).rstrip()


def _part_words(part: dict[str, Any]) -> list[str]:
    lines = [part["sentence"]]
    for name, reading in part["readings"].items():
        lines.append(
            f"{name}: {figure(reading['difference']).words()}; gained {reading['up']}, lost {reading['down']}; bootstrap "
            f"{figure(reading['bootstrap']).words()}; McNemar p "
            + (f"{reading['mcnemar_p']:.3g}" if reading["mcnemar_p"] is not None else "does not apply")
        )
    lines += [f"{name}: {figure(value).words()}" for name, value in part["differences"].items()]
    for name, by_value in part["slices"].items():
        lines += [f"  {name} {own}: {figure(value).words()}" for own, value in by_value.items() if value["n"]]
    for name, value in part["replies"]["differences"].items():
        lines.append(f"replies, {name}: {figure(value).words(digits=1 if name in ('tokens', 'characters') else 3)}")
    for side in ("baseline", "candidate"):
        cost = part["training"][side]
        if cost:
            lines.append(
                f"training {part[side]} ({cost['objective']}): {cost['memory_peak_bytes'] / 2**20:,.0f} MiB at the peak, "
                f"{cost['pairs_per_second']:.2f} pairs/s, {cost['seconds']:.0f} s"
            )
    for side in ("baseline", "candidate"):
        if drift := part["drift"][side]:
            own, begun = (figure(drift[key]).words(digits=3) for key in ("on_new_replies", "on_start_replies"))
            lines.append(
                f"drift of {part[side]} from its start, nats per token: {own} along its own replies, {begun} along the start's"
            )
        if production := part["production"][side]:
            rates = (
                f"{figure(production[key]).words(percent=True, digits=1)} {key}" for key in ("escalated", "overridden")
            )
            lines.append(f"drafts of {part[side]} in production: {', '.join(rates)}")
    return lines + [f"{own['judge']}: {row[0]} {row[1]}" for own in part["judged"] for row in own["rows"]]
