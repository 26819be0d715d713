"""Which method for which data and team: every rule decides somewhere, in its order, with values and a source."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scipy.stats import norm

from evenhand.data.bias import share
from evenhand.data.harbor import write_harbor
from evenhand.errors import UserError
from evenhand.figure import Figure
from evenhand.lifecycle.advice import TABLE, advise
from evenhand.lifecycle.advice_rules import RULES
from evenhand.lifecycle.circumstances import Case, Shown, Team, as_planned, shown_by, with_accuracy
from evenhand.lifecycle.start_recipe import next_commands, start_recipe
from evenhand.training.recipe import check_recipe

SILENT = lambda *_: None  # noqa: E731
DOCS = Path(__file__).parents[2] / "docs" / "methods.md"
EVEN, SHORTER = share(1000, 2000), share(1300, 2000)
AGREED, NOISE = Figure(0.6, 100, 0.5, 0.7), Figure(0.05, 100, -0.1, 0.2)


def pairs(count=2000, shorter=EVEN, alpha=AGREED, severe=()):
    return Shown("pairs.jsonl", "preferences", count, shorter, alpha, severe)


def only(what, count=500):
    return Shown("rows.jsonl", what, count)


# rule: a case in which it decides, and one where it is the only thing taken away
CASES = {
    "nothing_to_learn_from": (Case(only("prompts"), Team()), Case(only("prompts"), Team(judge="http://j/v1"))),
    "verifier": (Case(pairs(), Team(verifier="own.py:exact")), Case(pairs(), Team())),
    "labels_are_noise": (Case(pairs(alpha=NOISE), Team()), Case(pairs(), Team())),
    "too_few_pairs": (Case(pairs(300), Team()), Case(pairs(330), Team())),
    "strong_reward_model": (
        Case(pairs(), Team(reward_model="runs/reward", reward_accuracy=share(180, 200))),
        Case(pairs(), Team(reward_model="runs/reward", reward_accuracy=share(160, 200))),
    ),
    "reward_model_and_prompts": (
        Case(only("prompts"), Team(reward_model="runs/reward")),
        Case(pairs(), Team(reward_model="runs/reward")),
    ),
    "judge_without_people": (
        Case(only("demonstrations"), Team(judge="http://j/v1")),
        Case(pairs(), Team(judge="http://j/v1")),
    ),
    "thumbs": (Case(only("thumbs"), Team()), Case(only("demonstrations"), Team())),
    "demonstrations": (Case(only("demonstrations"), Team()), Case(only("thumbs"), Team())),
    "drift_and_length_skew": (
        Case(pairs(shorter=SHORTER), Team(drift_limit=0.1)),
        Case(pairs(), Team(drift_limit=0.1)),
    ),
    "drift": (Case(pairs(), Team(drift_limit=0.1)), Case(pairs(), Team())),
    "few_and_high_stakes": (Case(pairs(900), Team(high_stakes=True)), Case(pairs(1000), Team(high_stakes=True))),
    "length_skew": (Case(pairs(shorter=SHORTER), Team()), Case(pairs(), Team())),
    "memory": (
        Case(pairs(), Team(memory=110, parameters=7, full_finetuning=True)),
        Case(pairs(), Team(memory=110, parameters=7)),
    ),
    "pairs_alone": (Case(pairs(), Team()), Case(pairs(shorter=SHORTER), Team())),
}


def test_every_rule_is_listed_with_a_source_and_has_a_case() -> None:
    assert list(CASES) == [rule.id for rule in RULES]
    text = " ".join(DOCS.read_text().split())
    for rule in RULES:
        assert f"`{rule.id}`" in text, rule.id
        assert rule.says in text, rule.id
        assert rule.source


@pytest.mark.parametrize("name", CASES)
def test_a_rule_decides_where_it_holds_and_not_where_its_reason_is_gone(name: str) -> None:
    holds, gone = CASES[name]
    found = advise(holds)
    assert found.decided_by.id == name
    assert found.decided_by.holds(gone) is None
    assert advise(gone).decided_by.id != name
    told = found.json()
    assert told["decided_by"]["words"]
    assert [rule["id"] for rule in told["rules"]] == list(CASES)
    assert told["enough_evidence"] is (
        name not in ("nothing_to_learn_from", "labels_are_noise", "too_few_pairs", "pairs_alone")
    )
    assert ("not enough evidence" in told["sentence"]) is not told["enough_evidence"]


@pytest.mark.parametrize("name", [name for name in CASES if name != "verifier"])
def test_the_recipe_to_start_from_is_one_that_training_takes(name: str) -> None:
    case = CASES[name][0]
    found = advise(case)
    recipe = start_recipe(found)
    assert (recipe is None) is (found.method is None)
    assert all(command.startswith("evenhand ") for command in next_commands(found))
    if recipe is not None:
        checked = check_recipe(yaml.safe_load(recipe), "recipe.yaml")
        assert checked.objective.name in ("simpo" if found.method == "feedback" else found.method)


def test_an_earlier_rule_goes_before_a_later_one() -> None:
    team = Team(verifier="own.py:exact", drift_limit=0.1, high_stakes=True)
    found = advise(Case(pairs(100, SHORTER, NOISE), team))
    assert found.method == "grpo"
    held = [rule.id for rule in found.held]
    assert held == [
        "labels_are_noise", "too_few_pairs", "drift_and_length_skew", "drift", "few_and_high_stakes", "length_skew"
    ]  # fmt: skip


def test_the_table_is_the_guides(real_data: Path) -> None:
    guide = real_data.parent / "guide.txt"
    if not guide.exists():
        pytest.skip("the guide is not beside the data")
    text = guide.read_text()
    rows = {row.method: row for row in TABLE.values()}
    assert len(rows) == 5
    for row in rows.values():
        assert f"| {row.method} | {row.strength} | {row.weakness} | {row.best_when} |" in text


def test_what_a_split_can_show() -> None:
    case = Case(pairs(1000), Team())
    assert case.detectable == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(0.5 / 200))
    assert Case(pairs(2), Team()).detectable == 1.0


def test_memory_counts_what_training_holds() -> None:
    """7 billion weights: 16 bytes each are 104.3 GiB, 18 with a reference in bf16 117.3."""
    fits = [advise(Case(pairs(), Team(memory=m, parameters=7, full_finetuning=True))) for m in (104, 105, 117, 118)]
    assert [found.decided_by.id for found in fits] == ["pairs_alone", "memory", "memory", "pairs_alone"]
    assert any("104 GiB" in words for words in fits[0].cautions)


def test_cautions_name_what_is_missing() -> None:
    shown = pairs(700, alpha=Figure(None, 3), severe=("leak",))
    told = " ".join(advise(Case(shown, Team(reward_model="runs/reward"))).cautions)
    for words in ("leak", "3 items were judged by two", "17 points", "no"):
        assert words in told
    assert "not enough evidence of a length skew" in told
    assert "runs/reward is not measured" in told
    assert advise(Case(pairs(shorter=SHORTER), Team())).cautions == ()


def test_the_built_in_data_is_read_audited_and_curated(tmp_path: Path) -> None:
    """The annotators who take the longer and the first answer are dropped first, and what is left is skewed to short."""
    write_harbor(tmp_path, 0)
    shown = shown_by(str(tmp_path / "judgments.jsonl"), None, SILENT)
    assert (shown.what, shown.examples) == ("preferences", 954)
    assert shown.severe == ()
    assert shown.alpha.low is not None
    assert shown.alpha.low > 0.5
    assert shown.shorter_is_chosen.low is not None
    assert shown.shorter_is_chosen.low > 0.5
    assert advise(Case(shown, Team())).method == "simpo"


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"prompt": f"p{i}"} for i in range(4)], "prompts"),
        ([{"prompt": f"p{i}", "completion": f"c{i}", "label": i % 2 == 0} for i in range(4)], "thumbs"),
        ([{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(4)], "demonstrations"),
        ([{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(4)], "preferences"),
    ],
)
def test_each_kind_of_data_is_known(tmp_path: Path, rows: list[dict], what: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = shown_by(str(file), None, SILENT)
    assert (shown.what, shown.examples) == (what, 4)


def test_plans_beyond_the_sample(tmp_path: Path) -> None:
    planned = as_planned(pairs(50), 12000, 0.82)
    assert planned.examples == 12000
    assert planned.shorter_is_chosen == share(9840, 12000)
    with pytest.raises(UserError, match="--length-skew a share"):
        as_planned(pairs(), None, 82)


def test_a_reward_runs_own_report_is_its_accuracy(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"after": {"pairwise_accuracy": share(9, 10).json()}}))
    assert with_accuracy(Team(reward_model=str(tmp_path))).reward_accuracy == share(9, 10)
    assert with_accuracy(Team(reward_model="team/hub")).reward_accuracy.value is None
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="is no report of a run"):
        with_accuracy(Team(reward_model=str(tmp_path)))


def test_the_command_writes_the_recipe_and_keeps_a_file(tmp_path: Path) -> None:
    data, recipe = tmp_path / "pairs.jsonl", tmp_path / "recipe.yaml"
    data.write_text(
        "".join(json.dumps({"prompt": f"word {i}", "chosen": "yes", "rejected": "no"}) + "\n" for i in range(9))
    )

    def evenhand(*more):
        code = "from evenhand.cli.main import run; run()"
        command = [sys.executable, "-c", code, "advise", str(data), *more]
        return subprocess.run(command, capture_output=True, text=True)

    done = evenhand("--json", "-q", "--pairs", "5000", "--drift-limit", "0.1", "--out", str(recipe))
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert told["recipe"] == recipe.read_text()
    assert told["decided_by"]["id"] in ("drift", "drift_and_length_skew")
    again = evenhand("--out", str(recipe))
    assert (again.returncode, again.stdout) == (2, "")
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"memory": -5.0}, r"--memory -5: give a number above 0"),
        ({"parameters": math.nan}, r"--parameters nan: give a number above 0"),
        ({"drift_limit": math.nan}, r"--drift-limit nan: give nats per token, 0 or more"),
        ({"drift_limit": -1.0}, r"--drift-limit -1: "),
        ({"verifier": "nofile.py:f"}, r"--verifier nofile.py:f: give file.py:function with a file that is there"),
        ({"verifier": "x.txt"}, r"--verifier x.txt: "),
        ({"reward_model": "nofile"}, r"--reward-model nofile: there is no such folder"),
    ],
)
def test_what_a_team_cannot_mean_is_refused(given: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Team(**given).present()


def test_a_verifier_of_a_module_and_a_reward_model_of_a_hub_need_no_file() -> None:
    Team(verifier="evenhand.online.verifiers:last_number", reward_model="org/reward-7b", drift_limit=0.0).present()
