"""The short table that ends a run, from its report."""

import json
from pathlib import Path
from typing import Any

from evenhand.figure import Figure, figure

_ROWS = (
    ("pairwise_accuracy", "pairwise accuracy"),
    ("length_balanced_accuracy", "length-balanced accuracy"),
    ("accuracy_by_sum", "accuracy by summed log-probability"),
)
_REPLIES = (
    ("median_tokens", "median reply, tokens", 0),
    ("ended", "replies that end by themselves", 2),
    ("repetition", "repetition", 2),
)


def summary(folder: Path) -> dict[str, Any]:
    """A finished run: its folder, its model, and its report where held-out pairs were given."""
    report = folder / "report.json"
    value: dict[str, Any] = {"run": str(folder), "model": str(folder / "model")}
    if report.exists():
        value |= {"page": str(folder / "report.html"), "report": json.loads(report.read_text(encoding="utf-8"))}
    return value


def summary_words(found: dict[str, Any]) -> str:
    """The summary as a table for a person."""
    if "report" not in found:
        return f"model: {found['model']}"
    report = found["report"]
    lines = [f"{'':<36}{'before':>10}{'after':>10}   change, 95 % interval"]
    for key, name in _ROWS:
        before, after = figure(report["before"][key]), figure(report["after"][key])
        if after.value is not None or key != "accuracy_by_sum":  # rewards have no sum
            lines.append(f"{name:<36}{_short(before, 3):>10}{_short(after, 3):>10}   {_change(report, key)}")
    if report["before"].get("generation") and report["after"].get("generation"):
        rewarded = (("reward", "mean reward of a reply", 3),) if "reward" in report["differences"] else ()
        for key, name, digits in (*rewarded, *_REPLIES):
            before, after = (figure(report[side]["generation"][key]) for side in ("before", "after"))
            lines.append(f"{name:<36}{_short(before, digits):>10}{_short(after, digits):>10}   {_change(report, key)}")
    refused = sum(report["data"]["refused"].values())
    lines += [
        "",
        report["verdict"]["sentence"],
        *report["verdict"]["cautions"],
        f"rows: {report['data']['rows_in']} in, {report['data']['rows_used']} used, {refused} refused",
        f"model: {found['model']}",
        f"report: {found['page']}",
    ]
    return "\n".join(lines)


def evaluation_words(found: dict[str, Any]) -> str:
    """An evaluation as lines for a person."""
    lines = [f"{name}: {figure(found[key]).words()}" for key, name in _ROWS if found[key]["n"]]
    lines.append(f"Spearman of mean score with length: {figure(found['spearman_length']).words()}")
    for name, values in found["slices"].items():
        lines += [f"  {name} {value}: {figure(number).words()}" for value, number in values.items()]
    if found["generation"]:
        lines += [
            f"{name}: {figure(found['generation'][key]).words(digits=max(1, digits))}" for key, name, digits in _REPLIES
        ]
    lines += [f"{name}: {figure(number).words(digits=3)}" for name, number in _beside_scores(found)]
    if found["train_gap"] and found["train_gap"]["flagged"]:
        lines.append("flagged: the gap between training and held-out accuracy is larger than chance makes it")
    data = found["data"]
    lines.append(f"rows: {data['rows_in']} in, {data['rows_used']} used, refused {data['refused'] or 'none'}")
    return "\n".join(lines)


def _beside_scores(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The figures that follow from more than the scores, as far as they were measured."""
    rows = [
        ("accuracy at equal length, by a logistic model", found["length_controlled_accuracy"]),
        (f"overconfidence of sigmoid({found['calibration']['beta']:g} x gap)", found["calibration"]["overconfidence"]),
        ("Brier score of the same", found["calibration"]["brier"]),
        ("built-in questions, first wording", found["paraphrases"]["original"]),
        ("built-in questions, other wordings", found["paraphrases"]["paraphrased"]),
    ]
    if found["train_gap"]:
        rows.append(("training minus held-out accuracy", found["train_gap"]["gap"]))
        if found["train_gap"]["growth"]:
            rows.append(("what training added to that", found["train_gap"]["growth"]))
    if found["generation"]:
        rows += [(f"distinct words in a reply, runs of {n}", found["generation"][f"distinct_{n}"]) for n in (1, 2)]
    if found["drift"]:
        rows.append(("drift along its own replies, nats per token", found["drift"]["on_new_replies"]))
        rows.append(("drift along the start's replies, nats per token", found["drift"]["on_start_replies"]))
    if found["judged"]:
        rows.append((f"{found['judged']['judge']} agrees with people", found["judged"]["agreement"]))
        if found["judged"]["win_rate"]:
            rows.append(("replies preferred to chosen answers, by the same", found["judged"]["win_rate"]))
    if found["speed"]:
        rows.append(("seconds to the first token", found["speed"]["first_token_seconds"]))
        rows.append(("tokens per second, one prompt", found["speed"]["tokens_per_second_alone"]))
        rows.append(("tokens per second, eight prompts", found["speed"]["tokens_per_second_together"]))
    return rows


def _short(number: Figure, digits: int) -> str:
    return "-" if number.value is None else f"{number.value:.{digits}f}"


def _change(report: dict[str, Any], key: str) -> str:
    return figure(report["differences"][key]).words() if key in report["differences"] else ""
