"""The turns as a Markdown table: medians, and how far the rounds lie apart."""

from statistics import median
from typing import Any

Turn = dict[str, Any]
AGREE = 1e-5  # losses in fp32, all contenders


def table(found: dict[str, Any]) -> str:
    """A heading with work, machine and versions, a row a contender, and whether their losses agree."""
    rows = {name: turns_of(found, name) for name in found["chosen"]}
    ran = {name: turns for name, turns in rows.items() if turns}
    base = next(iter(ran), None)
    lines = [heading(found, ran), ""]
    lines += [
        f"| contender | pairs/s (least to most, rounds) | times {base} | peak above the weights, MiB | useful TFLOP/s "
        "| of the peak | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, turns in rows.items():
        lines.append(
            f"| {name} {described(found['chosen'][name])} | {cells(turns, ran[base]) if turns and base else why(found, name)} |"
        )
    return "\n".join([*lines, "", agreement(ran)])


def turns_of(found: dict[str, Any], name: str) -> list[Turn]:
    """The finished turns of a contender in its chosen setting."""
    choice = found["chosen"][name]
    return [t for t in found["turns"] if t["name"] == name and t["choice"] == choice and "pairs_per_second" in t]


def heading(found: dict[str, Any], ran: dict[str, list[Turn]]) -> str:
    """What was measured where."""
    setting, machine = found["setting"], found["machine"]
    one = next(iter(ran.values()))[0] if ran else {}
    tokens = " ".join(f"{key} {n:.0f}" for key, n in zip("PCR", one.get("mean_tokens", ())))
    where = (
        machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads, {' '.join(machine['instructions'])}"
    )
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    return (
        f"{setting['work']} ({tokens} mean tokens), {setting['model']} {setting['train']}, {setting['pairs']} pairs a step, "
        f"{setting['steps']} steps a turn after one to warm up; {where}; {versions}"
    )


def described(choice: Turn) -> str:
    """A setting in words."""
    return f"({choice['dtype']}, micro-batch {choice['micro']}{', recomputing' if choice.get('checkpoint') else ''})"


def cells(turns: list[Turn], base: list[Turn]) -> str:
    """The figures of a row."""
    speeds = [t["pairs_per_second"] for t in turns]
    times = median(speeds) / median(t["pairs_per_second"] for t in base)
    memory = median(t["memory_above_weights"] for t in turns) / 2**20
    useful = median(t["useful_flops"] for t in turns)
    share = median(t["useful_flops"] / t["peak_flops"] for t in turns)
    return (
        f"{median(speeds):.3f} ({min(speeds):.3f} to {max(speeds):.3f}, {len(turns)}) | {times:.2f} | {memory:.0f} "
        f"| {useful / 1e12:.3f} | {share:.0%} | {median(t['loss'] for t in turns):.6f}"
    )


def why(found: dict[str, Any], name: str) -> str:
    """What the contender said instead of finishing."""
    said = [t["error"] for t in found["turns"] if t["name"] == name and "error" in t]
    return f"{said[-1] if said else 'not run'} | | | | |"


def agreement(ran: dict[str, list[Turn]]) -> str:
    """How far the contenders' losses lie apart; in fp32 more than 1e-5 is an error of the comparison."""
    losses = [turn["loss"] for turns in ran.values() for turn in turns]
    if not losses:
        return "No contender finished."
    apart = max(losses) - min(losses)
    fp32 = all(turn["dtype"] == "float32" for turns in ran.values() for turn in turns)
    verdict = f", {'within' if apart <= AGREE else 'MORE THAN'} {AGREE:.0e}" if fp32 else ""
    return f"Losses lie {apart:.1e} apart{verdict}."
