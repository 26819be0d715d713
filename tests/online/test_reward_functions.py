"""Reward functions: called by name as TRL calls them, loaded from files and modules, weighted, and refused by name."""

from pathlib import Path

import pytest
from bandit import arm_reward

from evenhand.data.schema import Message
from evenhand.errors import RecipeError
from evenhand.online.rewards import Answered, BrokenRewardError, Reward, columns_of, load_function, taught, worth

ASKED = Answered(
    prompts=[(Message("system", "Be brief."), Message("user", "Where?")), (Message("user", "When?"),)],
    replies=["Here.", "On Monday."],
    columns={"answer": ["here", "monday"], "unused": [1, 2]},
)


def written(folder: Path, text: str) -> Path:
    file = folder / "own.py"
    file.write_text(text)
    return file


def test_a_function_is_given_what_it_names(tmp_path: Path) -> None:
    file = written(
        tmp_path, "def right(replies, answer):\n    return [float(a in r.lower()) for r, a in zip(replies, answer)]\n"
    )
    function = load_function(f"{file}:right")
    assert columns_of(function) == ("answer",)
    assert Reward("right", function).values(ASKED) == [1.0, 1.0]


def test_trls_functions_run_unchanged() -> None:
    def conversational(completions, **kwargs):
        assert kwargs["prompts"][0] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where?"},
        ]
        assert kwargs["answer"] == ["here", "monday"]
        return [len(completion[0]["content"]) for completion in completions]

    assert Reward("length", conversational).values(ASKED) == [5.0, 10.0]


def test_arguments_are_fixed_for_every_call(tmp_path: Path) -> None:
    file = written(
        tmp_path, "def short(prompts, replies, most):\n    return [float(len(r) <= most) for r in replies]\n"
    )
    function = load_function(f"{file}:short", {"most": 5})
    assert columns_of(function) == ()
    assert Reward("short", function).values(ASKED) == [1.0, 0.0]


def test_the_sum_is_weighted_and_none_adds_nothing() -> None:
    rewards = [
        Reward("one", lambda replies: [1, 2], 0.5),
        Reward("two", lambda replies: [None, 10.0], -1.0),
    ]
    assert worth(rewards, ASKED) == [0.5, -9.0]
    assert worth(rewards[1:], ASKED) == [None, -10.0]
    assert taught(worth(rewards[1:], ASKED)) == [0.0, -10.0]


def test_a_module_is_imported_by_its_name() -> None:
    assert load_function("bandit:arm_reward") is arm_reward
    with pytest.raises(RecipeError, match=r"json has no function brief"):
        load_function("json:brief")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def reward(p, r):\n    return []\n", r"takes \(p, r\); a reward is called by name with `prompts`, `replies`"),
        ("def reward(replies, /):\n    return []\n", "a reward is called by name"),
        ("def other(replies):\n    return []\n", "has no function reward"),
        ("import nothing_of_this_name\n", "raised ModuleNotFoundError"),
        ("def reward(replies:\n", "raised SyntaxError"),
    ],
)
def test_what_is_no_reward_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_function(f"{written(tmp_path, text)}:reward")


def test_an_argument_that_the_function_has_not_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "def reward(replies, most):\n    return []\n")
    with pytest.raises(RecipeError, match="has no argument least; it has replies, most"):
        load_function(f"{file}:reward", {"least": 1})
    with pytest.raises(RecipeError, match="raised FileNotFoundError"):
        load_function(f"{tmp_path / 'absent.py'}:reward")
    with pytest.raises(RecipeError, match="neither module:function nor"):
        load_function("runs/reward")


def test_one_reward_of_several_is_named_when_it_breaks() -> None:
    rewards = [Reward("good", lambda replies: [1, 2]), Reward("bad", lambda replies: [0.0, float("-inf")])]
    with pytest.raises(
        BrokenRewardError, match=r"the reward bad is -inf for 1 of 2 replies, first 'On Monday\.'"
    ) as error:
        worth(rewards, ASKED)
    assert error.value.name == "bad"
    missing = Reward("asks", lambda replies, gone: [])
    with pytest.raises(BrokenRewardError, match=r"the reward asks threw TypeError: .*'gone'"):
        worth([missing], ASKED)
