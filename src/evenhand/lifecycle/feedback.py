"""Data from a constitution: replies compared, or rewritten, by a model that was first measured on what people judged."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from evenhand.data.read import describe, read_judgments, read_rows
from evenhand.data.schema import Judgment, PreferencePair, Reading
from evenhand.data.snapshot import read_snapshot
from evenhand.data.sources import source_rows
from evenhand.errors import DataError, JudgeError, UserError
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.judge import EndpointJudge, Judge, Question
from evenhand.evaluation.winrate import Judged, JudgedWinRate, evenly, judged
from evenhand.files import write_whole
from evenhand.lifecycle.appraisal import given_pairs
from evenhand.lifecycle.rewarding import Say
from evenhand.online.constitution import read_constitution
from evenhand.online.feedback import CANDIDATES, ConstitutionJudge, as_written, by_principle, judgment_rows
from evenhand.online.revision import Revised, Reviser
from evenhand.training.material import read_texts
from evenhand.training.sections import DataSection

Revision = Literal["demonstration", "pair"]
_LABELLED = 200
UNMEASURED = "not measured: no pairs that people judged were given"


@dataclass(frozen=True, slots=True)
class Comparing:
    """What to compare: the answers of `data`, by a judge that is measured on `labelled` first, None for not at all."""

    judge: ConstitutionJudge
    data: str
    labelled: str | None
    out: Path
    confidence: float = 0.5
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"--confidence {self.confidence} is a share from 0.5 up to, and without, 1.")


def by_constitution(judge: Judge, constitution: Path, every: bool = False) -> ConstitutionJudge:
    """The judge with the principles to judge by; raises UserError for one that cannot be told any."""
    if not isinstance(judge, EndpointJudge):
        raise UserError(
            f"{judge.name} cannot be told by what to judge; a constitution needs a model behind an endpoint."
        )
    return ConstitutionJudge(
        replace(judge.endpoint, leading=CANDIDATES), judge.kept, read_constitution(constitution), every
    )


def measured(judge: Judge, labelled: str, narrate: Narrator, confidence: float | None = None) -> JudgedWinRate:
    """The judge's agreement with people on at most 200 of their pairs, spread over the file.

    With a `confidence`, what is measured is the verdict that is written at that confidence; without, the words of both
    orders.
    Raises JudgeError where it is not shown to agree more often than chance.
    """
    pairs = [pair for pair in given_pairs(labelled).pairs if pair.lacks is None]
    if not pairs:
        raise DataError(f"{labelled} holds no pair of answers that people compared.")
    spread = evenly(pairs, _LABELLED)
    told = judged(judge, [Question.of(pair) for pair in spread], partial(narrate, "measuring the judge"))
    if confidence is not None:
        told = replace(told, rulings=tuple(as_written(ruling, confidence) for ruling in told.rulings))
    found = JudgedWinRate(judge.name, told, None)
    if found.agreement.low is None:
        raise JudgeError(
            f"{judge.name} gave no verdict on {len(spread)} pairs of {labelled} ({counts(told.unjudged)}); nothing was written."
        )
    if found.withheld:
        raise JudgeError(
            f"{found.withheld} on {labelled}; nothing was written. Correct the principles, or take a stronger model."
        )
    return found


def compare_replies(order: Comparing, say: Say, narrate: Narrator) -> dict[str, Any]:
    """Measure the judge, ask it, and write judgments and beside them a report; what was asked before is not asked again.

    Raises JudgeError for a judge that does not beat chance, and DataError where no answers were judged.
    """
    agreement = measured(order.judge, order.labelled, narrate, order.confidence) if order.labelled else None
    asked = _asked(order, say)
    said = judged(order.judge, [question for question, _ in asked], partial(narrate, "comparing"))
    rows = judgment_rows(order.judge, asked, said, order.confidence)
    if not rows:
        raise DataError(f"the judge gave no verdict on {len(asked)} questions ({counts(said.unjudged)}).")
    found = _told(order, agreement, said, rows)
    _write(order.out, rows, found)
    return found


def _asked(order: Comparing, say: Say) -> list[tuple[Question, Judgment | PreferencePair]]:
    """Every pair of different answers in the data, once, whoever judged it and however."""
    sources: Sequence[Judgment | PreferencePair]
    if (Path(order.data) / "dataset.json").exists():
        sources = read_snapshot(Path(order.data)).train
    else:
        reading = _reading(order.data)
        say(describe(reading))
        sources = reading.judgments
    found: dict[tuple[Any, ...], tuple[Question, Judgment | PreferencePair]] = {}
    for source in sources:
        a, b = _answers(source)
        if a != b:
            question = Question(source.id, source.prompt, a, b, source.family)
            found.setdefault((source.prompt, *sorted((a, b))), (question, source))
    if not found:
        raise DataError(f"{order.data} holds no two different answers to one prompt.")
    return list(found.values())[: order.limit]


def _reading(source: str) -> Reading:
    """The answers of a file; rows that nobody has judged yet are read as ties, since verdicts are not looked at."""
    rows = [row.fields or {} for row in source_rows(source, Counter())]
    undecided = [_tied(fields) for fields in rows]
    return read_rows(undecided, source) if undecided != rows else read_judgments(source)


def _tied(fields: dict[str, Any]) -> dict[str, Any]:
    if "answer_a" in fields and "answer_b" in fields and "verdict" not in fields:
        return {**fields, "verdict": "tie"}
    if isinstance(fields.get("responses"), list) and not {"scores", "ranking"} & fields.keys():
        return {**fields, "scores": [0] * len(fields["responses"])}
    return fields


def _answers(source: Judgment | PreferencePair) -> tuple[str, str]:
    if isinstance(source, Judgment):
        return source.answer_a, source.answer_b
    return source.chosen, source.rejected


def _told(
    order: Comparing, agreement: JudgedWinRate | None, said: Judged, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    judge = order.judge
    labelled = agreement.labelled if agreement else None
    return {
        "out": str(order.out),
        "rows": len(rows),
        "asked": len(said.questions),
        "unjudged": said.unjudged,
        "verdicts": dict(Counter(str(row["verdict"]) for row in rows)),
        "judge": judge.name,
        "constitution": {"name": judge.constitution.name, "sha256": judge.constitution.sha256},
        "transcript": str(judge.kept),
        "probabilities": sum(ruling.preference is not None for ruling in said.rulings),
        "agreement": agreement.agreement.json() if agreement else None,
        "agreement_by_principle": {
            name: part.win_rate.json() for name, part in (by_principle(judge, labelled) if labelled else {}).items()
        },
        "unmeasured": None if agreement else UNMEASURED,
        "position_bias": said.position_bias.json(),
        "consistent": said.consistent.json(),
    }


@dataclass(frozen=True, slots=True)
class Revising:
    """What to rewrite: the answers of `data` (of a pair the chosen one), as demonstrations or as pairs with the draft."""

    reviser: Reviser
    data: str
    out: Path
    keep: str = "demonstration"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.keep not in get_args(Revision):
            raise UserError(f"--keep {self.keep!r} is none of {', '.join(get_args(Revision))}.")


def revise_replies(order: Revising, say: Say, narrate: Narrator) -> dict[str, Any]:
    """Have every answer criticised and rewritten, and write what came of it; what was asked before is not asked again."""
    drafts = _drafts(order, say)
    revised = order.reviser.revise(drafts, partial(narrate, "criticising and rewriting"))
    whole = [one for one in revised if one.lost is None]
    rows = [row for one in whole if (row := one.row(order.reviser.name, order.keep)) is not None]
    lost = dict(Counter(one.lost for one in revised if one.lost is not None).most_common())
    if not rows:
        raise DataError(f"none of {len(drafts)} answers was rewritten ({counts(lost) or 'none was changed'}).")
    constitution = order.reviser.constitution
    found = {
        "out": str(order.out),
        "rows": len(rows),
        "drafts": len(drafts),
        "unchanged": sum(one.reply.strip() == one.draft.strip() for one in whole),
        "lost": lost,
        "reviser": order.reviser.name,
        "constitution": {"name": constitution.name, "sha256": constitution.sha256},
        "principles": dict(Counter(one.principle for kept in whole for one in kept.passes)),
        "transcript": str(order.reviser.kept),
    }
    _write(order.out, rows, found)
    return found


def _drafts(order: Revising, say: Say) -> list[Revised]:
    if (Path(order.data) / "dataset.json").exists():
        pairs = read_snapshot(Path(order.data)).train
    else:
        texts = read_texts(DataSection(source=order.data), "answers")
        for sentence in texts.said:
            say(sentence)
        pairs = texts.train
    drafts = {(pair.prompt, pair.chosen): Revised(pair.prompt, pair.chosen, category=pair.category) for pair in pairs}
    found = [one for one in drafts.values() if one.draft.strip()][: order.limit]
    if not found:
        raise DataError(
            f"{order.data} holds no answers to rewrite; `evenhand sample --keep best` draws some from a model."
        )
    return found


def report_of(out: Path) -> Path:
    """Where the report on a file of judgments or demonstrations stands."""
    return out.with_name(f"{out.stem}.report.json")


def _write(out: Path, rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_whole(report_of(out), json.dumps(found, ensure_ascii=False, indent=2) + "\n")


def counts(named: Mapping[str, int]) -> str:
    """What was counted, in words.

    >>> counts({"no verdict": 2, "no answer": 1})
    '2 no verdict, 1 no answer'
    """
    return ", ".join(f"{count} {name}" for name, count in named.items())
