"""Tasks of lm-evaluation-harness as checks of a gate, where a policy names some and the extra is installed."""

import sys
from contextlib import redirect_stdout
from typing import Any

from evenhand.evaluation.behaviour import Item
from evenhand.evaluation.noninferiority import Margin
from evenhand.lifecycle.check import Check, not_run, share_check
from evenhand.lifecycle.contestant import Contestant
from evenhand.lifecycle.policy import Harness

_METRICS = ("acc_norm", "acc", "exact_match")


def harness_checks(asked: Harness | None, candidate: Contestant, incumbent: Contestant) -> list[Check]:
    """One check for each task, paired by the task's own items."""
    if asked is None:
        return []
    try:
        import lm_eval  # noqa: PLC0415
    except ImportError:
        why = "lm-evaluation-harness is missing: pip install 'evenhand[eval]'"
        return [not_run(task, _meaning(task), -asked.margin, why) for task in asked.tasks]
    sides = [_samples(lm_eval, asked, model) for model in (candidate, incumbent)]
    checks = []
    for task in asked.tasks:
        common = sorted(sides[0].get(task, {}).keys() & sides[1].get(task, {}).keys())
        if not common:
            why = f"its items have none of the figures {', '.join(_METRICS)}"
            checks.append(not_run(task, _meaning(task), -asked.margin, why))
            continue
        items = ([sides[0][task][key] for key in common], [sides[1][task][key] for key in common])
        checks.append(share_check(task, _meaning(task), items, Margin(asked.margin, asked.chance)))
    return checks


def _meaning(task: str) -> str:
    return f"share of {task}'s items that are right, by lm-evaluation-harness"


def _samples(lm_eval: Any, asked: Harness, model: Contestant) -> dict[str, dict[int, Item]]:
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    manager = TaskManager(include_path=asked.include_path)
    wrapped = HFLM(pretrained=model.policy.model, tokenizer=model.tokenizer, backend="causal")
    with redirect_stdout(sys.stderr):  # the library prints, and stdout is for results
        found = lm_eval.simple_evaluate(
            model=wrapped, tasks=list(asked.tasks), limit=asked.limit, task_manager=manager, log_samples=True
        )
    return {task: _items(samples) for task, samples in found["samples"].items()}


def _items(samples: list[dict[str, Any]]) -> dict[int, Item]:
    return {
        int(sample["doc_id"]): Item(float(sample[metric]), (), str(sample.get("filtered_resps", ""))[:500])
        for sample in samples
        for metric in _METRICS
        if metric in sample
    }
