"""PPO from recipe to report: rewards from functions and from a reward model, prompts with and without answers, resumed."""

import json
from pathlib import Path

import pytest
from small_model import CHATML, WORDS, listening, recipe_value, rows, small_tokenizer, write_rows
from test_reward_run import reward_recipe
from tokenizers import Tokenizer

from evenhand.errors import DataError, ModelError, NonFiniteError, RecipeError, UserError
from evenhand.lifecycle.align import align
from evenhand.lifecycle.bench import Telling
from evenhand.lifecycle.rehearsal import rehearse
from evenhand.lifecycle.summary import summary, summary_words
from evenhand.training.recipe import check_recipe

SILENT = listening()[0]
FUNCTIONS = """
def letters(replies):
    return [float(sum(c in "aeiou" for c in reply)) / (len(reply) + 1) for reply in replies]

def same(replies, reference, colour):
    assert set(colour) <= {"red", "blue"}, colour
    return [float(reply[:1] == wanted[:1]) for reply, wanted in zip(replies, reference)]

def brief(prompts, replies, most):
    return [-max(0.0, len(reply.split()) - most) for reply in replies]

def broken(replies):
    return [float("nan")] * len(replies)
"""


def ppo_recipe(folder: Path, model: Path, rewards, made=None, **training):
    (folder / "own.py").write_text(FUNCTIONS)
    made = made or [row | {"colour": "red" if i % 2 else "blue"} for i, row in enumerate(rows(20))]
    data = {
        "train": str(write_rows(folder / "train.jsonl", made[:12])),
        "validation": str(write_rows(folder / "held_out.jsonl", made[12:])),
    }
    value = recipe_value(model, data, **{"batch_pairs": 3, "steps": 3, "learning_rate": 3e-3} | training)
    value["training"].pop("token_budget")
    value["objective"] = {
        "name": "ppo",
        "rewards": rewards,
        "replies": 2,
        "max_new_tokens": 4,
        "kl": 0.05,
        "passes": 2,
    }
    value["evaluation"] = {"prompts": 6, "max_new_tokens": 5}
    return check_recipe(value, "recipe.yaml")


def journal(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    rewards = [
        str(folder / "own.py") + ":letters",
        {"source": str(folder / "own.py") + ":same", "weight": 0.5},
        {"source": str(folder / "own.py") + ":brief", "weight": 0.1, "arguments": {"most": 2}},
    ]
    return align(ppo_recipe(folder, small_model, rewards), folder / "run", SILENT)


def test_a_run_reports_the_reward_it_was_trained_for(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    kept = json.loads((run / "rows" / "replies-after.json").read_text())["replies"]
    vowels = [sum(c in "aeiou" for c in row["text"]) / (len(row["text"]) + 1) for row in kept]
    held_out = [json.loads(line) for line in (run.parent / "held_out.jsonl").read_text().splitlines()]
    chosen = {row["prompt"]: row["chosen"] for row in held_out}
    same = [row["text"][:1] == chosen[row["prompt"][-1]["content"]][:1] for row in kept]
    long = [max(0, len(row["text"].split()) - 2) for row in kept]
    wanted = [v + 0.5 * s - 0.1 * n for v, s, n in zip(vowels, same, long)]
    assert [row["reward"] for row in kept] == pytest.approx(wanted)
    assert report["after"]["generation"]["reward"]["value"] == pytest.approx(sum(wanted) / len(wanted))
    assert report["differences"]["reward"]["n"] == 6
    assert "mean reward of replies went from" in report["verdict"]["sentence"]
    assert "Reward" in (run / "report.html").read_text()
    assert "mean reward of a reply" in summary_words(summary(run))
    record = journal(run)[0]
    assert {"reward", "kl", "entropy", "explained_variance", "clip_fraction", "gradient_norm", "ended"} <= record.keys()
    assert (run / "model" / "generation_config.json").exists()


def test_any_method_can_tell_the_rewards_of_its_replies(tmp_path: Path, run: Path, small_model: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    files = {"train": str(run.parent / "train.jsonl"), "validation": str(run.parent / "held_out.jsonl")}
    value = recipe_value(small_model, files)
    value["evaluation"] = {"prompts": 6, "max_new_tokens": 5, "rewards": [f"{tmp_path / 'own.py'}:letters"]}
    made = align(check_recipe(value, "recipe.yaml"), tmp_path / "run", SILENT)
    report = json.loads((made / "report.json").read_text())
    assert report["differences"]["reward"]["n"] == 6
    assert (
        "prefers the chosen answer" in report["verdict"]["sentence"] or "accuracy went" in report["verdict"]["sentence"]
    )


def test_a_run_that_is_cut_goes_on_with_the_same_bits(tmp_path: Path, small_model: Path) -> None:
    recipe = ppo_recipe(tmp_path, small_model, [f"{tmp_path / 'own.py'}:letters"], checkpoint_every=1)
    whole = align(recipe, tmp_path / "whole", SILENT)

    def cut(record: dict, steps: int) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(recipe, tmp_path / "cut", Telling(SILENT.say, SILENT.narrate, cut))
    again = align(recipe, tmp_path / "cut", SILENT)
    name = "model/adapter_model.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()
    rewards = [[record["reward"] for record in journal(one)] for one in (whole, again)]
    assert rewards[0] == rewards[1]
    (tmp_path / "own.py").write_text(FUNCTIONS.replace("aeiou", "aeiouy"))
    with pytest.raises(RecipeError, match=r"another reward\.1"):
        align(recipe, tmp_path / "cut", SILENT)


def test_prompts_alone_are_enough(tmp_path: Path, small_model: Path) -> None:
    tell, said = listening()
    made = [{"prompt": row["prompt"]} for row in rows(14)]
    run = align(ppo_recipe(tmp_path, small_model, [f"{tmp_path / 'own.py'}:letters"], made), tmp_path / "run", tell)
    told = json.loads((run / "rewards.json").read_text())
    assert told["differences"]["reward"]["n"] == 2
    assert not (run / "report.json").exists()
    assert any("mean reward of replies went from" in sentence for sentence in said)
    assert any("prompts" in sentence for sentence in said)


def test_a_reward_model_with_another_tokenizer_reads_the_replies_anew(tmp_path: Path, small_model: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in small_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = small_tokenizer()
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["merges"] = backend["model"]["merges"][:20]
    type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=CHATML,
    ).save_pretrained(other)
    (tmp_path / "reward").mkdir()
    judge = align(reward_recipe(tmp_path / "reward", other), tmp_path / "reward" / "run", SILENT)
    tell, said = listening()
    run = align(ppo_recipe(tmp_path, small_model, [str(judge)], steps=1), tmp_path / "run", tell)
    assert any("replies are tokenised again for it" in sentence for sentence in said)
    assert journal(run)[0]["reward"] != 0


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("nothing_here", ModelError, "nothing_here is neither a folder nor reachable"),
        ("own.py:absent", RecipeError, "has no function absent"),
        ("model", ModelError, "is a model that answers and gives no rewards"),
    ],
)
def test_what_is_no_reward_is_refused_before_a_folder_is_made(
    tmp_path: Path, small_model: Path, source: str, error: type, said: str
) -> None:
    named = str(small_model) if source == "model" else str(tmp_path / source) if ".py" in source else source
    with pytest.raises(error, match=said):
        align(ppo_recipe(tmp_path, small_model, [named]), tmp_path / "run", SILENT)


def test_a_column_that_is_not_there_is_named(tmp_path: Path, small_model: Path) -> None:
    recipe = ppo_recipe(tmp_path, small_model, [f"{tmp_path / 'own.py'}:same"], rows(20))
    with pytest.raises(DataError, match="asks for the column `colour`; there are chosen, prompt, rejected"):
        align(recipe, tmp_path / "run", SILENT)


def test_a_reward_that_stays_broken_stops_the_run_by_name(tmp_path: Path, small_model: Path) -> None:
    made = [{"prompt": " ".join(WORDS[i : i + 5])} for i in range(14)]
    recipe = ppo_recipe(tmp_path, small_model, [f"{tmp_path / 'own.py'}:broken"], made, steps=9, max_skipped=1)
    value = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"prompts": 0})})
    with pytest.raises(NonFiniteError, match=r"own\.py:broken is nan for 6 of 6 replies"):
        align(value, tmp_path / "run", SILENT)


def test_a_dry_run_is_refused_in_words(tmp_path: Path, small_model: Path) -> None:
    with pytest.raises(UserError, match="ppo draws its own"):
        rehearse(ppo_recipe(tmp_path, small_model, ["own.py:letters"]), SILENT)
