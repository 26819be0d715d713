"""The recipe to start from for each method, and the commands around it."""

from typing import Any

import yaml

from evenhand.lifecycle.advice import Advice
from evenhand.lifecycle.circumstances import Shown, Team

# Of full fine-tuning the authors' smallest published one; of an adapter what the examples here were measured with.
_FULL_RATE = {"simpo": 3.0e-7, "dpo": 5.0e-7, "dpo_length_normalised": 5.0e-7}
_DRAWING = {"replies": 8, "max_new_tokens": 256}
_SAID = {
    "simpo": "beta and margin are the guide's; sweep margin, beta and learning rate on held-out pairs.",
    "dpo": "beta 0.1 is the guide's; a larger one stays closer to the base.",
    "dpo_length_normalised": "beta is of mean log-ratios, which are smaller than sums: published ones are 5 to 10.",
    "kto": "beta and weights are the paper's; weigh up the rarer thumb.",
    "sft": "learn from demonstrations first, then collect preferences about what the model says.",
    "grpo": "needs the extra [rl]; watch the share of steps whose replies all earn the same.",
    "ppo": "watch reward and repetition together: docs/methods.md shows a reward that rose while replies got worse.",
    "feedback": "trained on the model's own answers, compared by a constitution: docs/methods.md.",
}


def start_recipe(advice: Advice) -> str | None:
    """The recipe as YAML with a comment on its numbers; None where no method is advised."""
    if advice.method is None:
        return None
    shown, team = advice.case.shown, advice.case.team
    value = {
        "name": advice.method.replace("_", "-"),
        "model": {"source": "MODEL", "adapter": None if team.full_finetuning else {"rank": 16, "alpha": 32}},
        "data": _data(advice, shown),
        "objective": _objective(advice, team),
        "training": _training(advice, team),
    }
    return f"# {_SAID[advice.method]}\n" + yaml.safe_dump(value, sort_keys=False)


def next_commands(advice: Advice) -> list[str]:
    """What to run, in order; `recipe.yaml` is the recipe to start from."""
    source, team = advice.case.shown.source, advice.case.team
    if advice.method is None:
        return [f"evenhand audit {source} --report audit.html"]
    train = ["evenhand train recipe.yaml --out runs/first"]
    match advice.method:
        case "feedback":
            drawn = (
                f"evenhand sample MODEL {source} --judge {team.judge} --judge-model JUDGE --constitution constitution.yaml "
                "--labelled LABELLED --out feedback.jsonl"
            )
            return [drawn, "evenhand curate feedback.jsonl --out data/v1", *train]
        case "grpo" | "ppo" | "sft" | "kto":
            return train
    curated = [f"evenhand curate {source} --out data/v1"] if advice.case.shown.source != "data/v1" else []
    after = ["evenhand compare runs/simpo runs/dpo"] if advice.is_open else []
    return [*curated, *train, *after]


def _data(advice: Advice, shown: Shown) -> dict[str, Any]:
    if advice.method in ("simpo", "dpo", "dpo_length_normalised", "feedback"):
        return {"source": "data/v1", "max_tokens": 2048}
    return {"source": shown.source, "validation": 0.1, "max_tokens": 2048}


def _objective(advice: Advice, team: Team) -> dict[str, Any]:
    match advice.method:
        case "dpo":
            return {"name": "dpo", "beta": 0.1, **_reference(team)}
        case "dpo_length_normalised":
            return {"name": "dpo", "beta": 5.0, "length_normalised": True, **_reference(team)}
        case "kto":
            return {"name": "kto", "beta": 0.1, **({"reference": "model"} if team.full_finetuning else {})}
        case "sft":
            return {"name": "sft"}
        case "grpo":
            return {"name": "grpo", "rewards": [team.verifier], **_DRAWING, "kl": 0.0}
        case "ppo":
            return {"name": "ppo", "rewards": [team.reward_model], **_DRAWING, "kl": 0.05}
    return {"name": "simpo", "beta": 2.0, "margin": 0.5}


def _reference(team: Team) -> dict[str, Any]:
    """With every weight trained there is no adapter to switch off; scores kept in a file need no second model."""
    return {"reference": "cached"} if team.full_finetuning else {}


def _training(advice: Advice, team: Team) -> dict[str, Any]:
    assert advice.method is not None
    rate = _FULL_RATE.get(advice.method, 1.0e-6) if team.full_finetuning else 1.0e-4
    draws = advice.method in ("grpo", "ppo")
    length = {"steps": 100} if draws else {"epochs": 1}
    return {
        "batch_pairs": 8 if draws else 32,
        **length,
        "learning_rate": rate,
        "schedule": "cosine",
        "warmup": 0.1,
        "seed": 0,
        "checkpoint_every": 10 if draws else 50,
    }
