"""From a constitution to data: the judge is measured first, its judgments are curated, its revisions imitated."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge_server import completion, judge_server
from small_model import listening, rows, write_rows
from typer.testing import CliRunner

from evenhand.cli.main import app
from evenhand.data.preparation import Wanted, prepare
from evenhand.data.snapshot import read_snapshot
from evenhand.errors import DataError, JudgeError, UserError
from evenhand.evaluation.endpoint import Endpoint, Patience
from evenhand.evaluation.generate import Generation
from evenhand.evaluation.judge import EndpointJudge, GapJudge
from evenhand.lifecycle.appraisal import given_pairs
from evenhand.lifecycle.feedback import (
    Comparing,
    Revising,
    by_constitution,
    compare_replies,
    measured,
    report_of,
    revise_replies,
)
from evenhand.lifecycle.judging import judged_against_chosen
from evenhand.online.constitution import read_constitution
from evenhand.online.revision import Reviser
from evenhand.training.material import read_texts
from evenhand.training.sections import DataSection

SILENT = listening()[0]
CONSTITUTION = """
name: shop
principles:
  - {id: warm, prefer: Prefer the warm reply., critique: Say what is cold., revise: Warm it.}
  - {id: brief, prefer: Prefer the brief reply.}
"""


def pairs(n: int, good: str = "Gladly, ", bad: str = "No, ") -> list[dict[str, str]]:
    return [
        {"prompt": row["prompt"], "chosen": f"{good}it is at stop {i * 7}.", "rejected": f"{bad}ask stop {i}."}
        for i, row in enumerate(rows(n))
    ]


def warm(body: dict[str, Any], number: int) -> tuple[int, dict[str, str], str]:
    """Prefers what begins with `Gladly`; criticises and warms what is said."""
    said = body["messages"][-1]["content"]
    if "Reply A:\n\n" in said:
        return completion("A" if said.split("Reply A:\n\n")[1].startswith("Gladly") else "B")
    if said.startswith("Criticise"):
        return completion("It could be warmer.")
    draft = body["messages"][-4]["content"]
    return completion("" if "stop 7." in draft else draft.replace("Gladly", "Most gladly"))


def judge_at(folder: Path, url: str):
    (folder / "constitution.yaml").write_text(CONSTITUTION)
    patience = Patience(attempts=1, first_wait_seconds=0.01)
    return by_constitution(
        EndpointJudge(Endpoint(url, "m", patience=patience), folder / "said.jsonl"), folder / "constitution.yaml"
    )


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_judgments_of_a_measured_judge_are_curated(tmp_path: Path) -> None:
    data, people = write_rows(tmp_path / "data.jsonl", pairs(40)), write_rows(tmp_path / "people.jsonl", pairs(30)[10:])
    with judge_server(warm) as served:
        order = Comparing(judge_at(tmp_path, served.url), str(data), str(people), tmp_path / "out.jsonl")
        told = compare_replies(order, SILENT.say, SILENT.narrate)
        asked = len(served.bodies)
        again = compare_replies(order, SILENT.say, SILENT.narrate)
        assert len(served.bodies) == asked
    assert again == told == json.loads(report_of(tmp_path / "out.jsonl").read_text())
    assert (told["agreement"]["value"], told["agreement"]["n"]) == (1.0, 20)
    assert sum(part["n"] for part in told["agreement_by_principle"].values()) == 20
    assert told["position_bias"]["value"] == 0.5
    made = written(tmp_path / "out.jsonl")
    assert len(made) == told["rows"] == 40
    assert all(row[f"answer_{row['verdict']}"].startswith("Gladly") for row in made)
    dataset = prepare(str(tmp_path / "out.jsonl"), tmp_path / "curated", Wanted(validation=0.3), SILENT.say)
    assert dataset["rows"]["in"] == 40
    train = read_snapshot(tmp_path / "curated").train
    assert train
    assert all(pair.chosen.startswith("Gladly") for pair in train)


def test_a_judge_that_people_do_not_agree_with_writes_nothing(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", pairs(12))
    people = write_rows(tmp_path / "people.jsonl", pairs(20, good="Surely, ", bad="Hm, "))
    with judge_server(warm) as served:
        judge = judge_at(tmp_path, served.url)
        order = Comparing(judge, str(data), str(people), tmp_path / "out.jsonl")
        with pytest.raises(
            JudgeError, match=r"more often than chance .* on .*people.jsonl; nothing was written"
        ) as said:
            compare_replies(order, SILENT.say, SILENT.narrate)
        assert said.value.exit_code == 1
        assert not (tmp_path / "out.jsonl").exists()
        assert len(served.bodies) == 40
        told = compare_replies(Comparing(judge, str(data), None, tmp_path / "out.jsonl"), SILENT.say, SILENT.narrate)
    assert told["agreement"] is None
    assert told["unmeasured"].startswith("not measured")


def test_answers_that_nobody_has_judged_are_compared(tmp_path: Path) -> None:
    answers = [{"prompt": row["prompt"], "responses": [row["rejected"], row["chosen"], "Gladly."]} for row in pairs(4)]
    ranked = write_rows(tmp_path / "ranked.jsonl", answers)
    two = [{"prompt": r["prompt"], "answer_a": r["rejected"], "answer_b": r["chosen"]} for r in pairs(4)]
    with judge_server(warm) as served:
        for data, most in ((write_rows(tmp_path / "two.jsonl", two), 4), (ranked, 12)):
            order = Comparing(judge_at(tmp_path, served.url), str(data), None, tmp_path / "out.jsonl")
            assert compare_replies(order, SILENT.say, SILENT.narrate)["asked"] == most
    first = next(row for row in written(tmp_path / "out.jsonl") if row["answer_a"].startswith("No"))
    assert first["verdict"] == "b"


def test_an_endpoint_that_is_away_stops_with_a_sentence_and_leaves_no_file(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", pairs(12))
    judge = judge_at(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(DataError, match="no verdict on 12 questions"):
        compare_replies(Comparing(judge, str(data), None, tmp_path / "out.jsonl"), SILENT.say, SILENT.narrate)
    with pytest.raises(JudgeError, match=r"no verdict on 12 pairs of .*data.jsonl \(.*Connection error"):
        compare_replies(Comparing(judge, str(data), str(data), tmp_path / "out.jsonl"), SILENT.say, SILENT.narrate)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_judge_is_measured_on_pairs_of_the_whole_file(tmp_path: Path) -> None:
    """Of 300 pairs it agrees with people on the first 200 alone, of 190 on the first 100."""
    warmth = GapJudge("warmth", lambda asked: np.array([1.0 if p.chosen.startswith("Gladly") else -1.0 for p in asked]))
    data = write_rows(tmp_path / "people.jsonl", [*pairs(200), *pairs(300, good="No, ", bad="Gladly, ")[200:]])
    found = measured(warmth, str(data), SILENT.narrate).agreement
    assert (found.value, found.n) == (pytest.approx(2 / 3, abs=0.01), 200)
    texts = given_pairs(str(data)).pairs[100:290]
    told = judged_against_chosen(warmth, Generation((), ()), texts, SILENT.narrate)["agreement"]
    assert (told["value"], told["n"]) == (pytest.approx(100 / 190, abs=0.01), 100)


def test_a_scorer_cannot_be_told_principles(tmp_path: Path) -> None:
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    with pytest.raises(UserError, match="own cannot be told by what to judge"):
        by_constitution(GapJudge("own", lambda pairs: None), tmp_path / "constitution.yaml")  # type: ignore[arg-type]


def test_revisions_are_demonstrations_and_lost_ones_are_counted(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", pairs(6))
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    with judge_server(warm) as served:
        reviser = Reviser(
            Endpoint(served.url, "m"), tmp_path / "said.jsonl", read_constitution(tmp_path / "constitution.yaml")
        )
        told = revise_replies(Revising(reviser, str(data), tmp_path / "out.jsonl"), SILENT.say, SILENT.narrate)
        pair = Revising(reviser, str(data), tmp_path / "pairs.jsonl", "pair")
        assert revise_replies(pair, SILENT.say, SILENT.narrate)["rows"] == 5
    assert (told["rows"], told["drafts"], told["lost"]) == (5, 6, {"an answer without words": 1})
    assert told["principles"] == {"warm": 5}
    texts = read_texts(DataSection(source=str(tmp_path / "out.jsonl")), "answers")
    assert [pair.lacks for pair in texts.train] == ["rejected"] * 5
    assert all(pair.chosen.startswith("Most gladly") for pair in texts.train)
    compared = read_texts(DataSection(source=str(tmp_path / "pairs.jsonl")))
    assert all(pair.chosen.startswith("Most") and pair.rejected.startswith("Gladly") for pair in compared.train)


def test_the_commands_say_what_was_done_and_ask_for_a_measure(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", pairs(20))
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    log = ["--judge-log", str(tmp_path / "said.jsonl")]
    with judge_server(warm) as served:
        given = [
            str(tmp_path / "constitution.yaml"),
            str(data),
            "--judge",
            served.url,
            "--judge-model",
            "m",
            *log,
            "-q",
        ]
        told = ["feedback", "compare", *given, "--labelled", str(data), "--out", str(tmp_path / "out.jsonl")]
        found = CliRunner().invoke(app, told)
        assert found.exit_code == 0, found.output
        assert "20 judgments of 20 pairs" in found.stdout
        assert "agreement with people: 1.000 [0.839, 1.000] n=20" in found.stdout
        asked = CliRunner().invoke(app, ["feedback", "compare", *given])
        assert isinstance(asked.exception, UserError)
        assert "--labelled FILE" in str(asked.exception)
        found = CliRunner().invoke(
            app, ["feedback", "revise", *given, "--json", "--out", str(tmp_path / "revised.jsonl")]
        )
        assert json.loads(found.stdout)["rows"] == 19
