"""A model card out of a manifest's facts: nothing is invented, and what was not measured says so."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from evenhand.evaluation.table import flattened, objective_numbers
from evenhand.figure import figure

_NOT_MEASURED = "not measured"
_LOADING = {
    "adapter": 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), "this folder")',
    "merged": 'AutoModelForCausalLM.from_pretrained("this folder")',
    "classifier": 'AutoModelForSequenceClassification.from_pretrained("this folder"): one label, the reward',
    "gguf": "llama-cli -m {name}-f16.gguf",
}
_REPLIES = (
    ("median_tokens", "median reply, tokens"),
    ("median_characters", "median reply, characters"),
    ("ended", "replies that end by themselves"),
    ("repetition", "share of repeated 4-grams"),
)


def card_text(facts: Mapping[str, Any]) -> str:
    """The card with Hugging Face's metadata on top."""
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{_body(facts)}"))


def _metadata(facts: Mapping[str, Any]) -> ModelCardData:
    base = facts["base"]
    origin = base.get("origin") or {}
    library = "peft" if facts["kinds"] == ["adapter"] else "transformers"
    named = base["name"] if _is_hub_id(base["name"]) else origin.get("repository")
    return ModelCardData(
        base_model=named,
        library_name=library,
        license=str(origin["licence"]).lower() if origin.get("licence") else None,
        pipeline_tag=task_of(facts),
        tags=["evenhand", "preference-alignment", str(facts["recipe"]["objective"]["name"])],
        model_name=facts["name"],
        eval_results=_eval_results(facts),
        ignore_metadata_errors=True,
    )


def task_of(facts: Mapping[str, Any]) -> str:
    """What the model does, by the hub's name for it."""
    return "text-classification" if "classifier" in facts["kinds"] else "text-generation"


def _eval_results(facts: Mapping[str, Any]) -> list[EvalResult] | None:
    accuracy = ((facts["results"] or {}).get("after") or {}).get("pairwise_accuracy")
    if not accuracy or accuracy["value"] is None:
        return None
    name = f"held-out preference pairs of data {facts['data']['hash'][:12]}"
    return [
        EvalResult(
            task_type=task_of(facts),
            dataset_type="preference-pairs",
            dataset_name=name,
            metric_type="pairwise_accuracy",
            metric_value=accuracy["value"],
        )
    ]


def _body(facts: Mapping[str, Any]) -> str:
    parts = [
        f"# {facts['name']}",
        _intended(facts),
        _loading(facts),
        _data(facts),
        _settings(facts),
        _results(facts),
        _limits(facts),
        _proof(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _intended(facts: Mapping[str, Any]) -> str:
    base = facts["base"]
    note = (base.get("origin") or {}).get("note")
    said = f" ({note})" if note else ""
    return (
        "## Intended use\n\n"
        f"{base['name']}{said}, aligned with pairwise preferences by {facts['recipe']['objective']['name']}. It is meant for "
        "prompts like those of its training data; any further use has not been examined. Who may use it, and for what, "
        "has to be said by the team that ships it: nothing about that was recorded."
    )


def _loading(facts: Mapping[str, Any]) -> str:
    base = facts["base"]
    hub, built_in = _is_hub_id(base["name"]), base["name"].startswith("builtin:")
    given = f'"{base["name"]}"' if hub else "builtin_folder()" if built_in else f'"folder of {base["name"]}"'
    lines = [_LOADING[kind].format(base=given, name=facts["name"]) for kind in facts["kinds"]]
    if built_in and facts["kinds"] == ["adapter"]:
        lines.insert(
            0, "from evenhand.model.builtin import builtin_folder  # converts the base once and tells its folder"
        )
    revision = f"revision {base['revision']}, " if base["revision"] else ""
    return (
        "## Loading\n\n"
        + "\n".join(f"    {line}" for line in lines)
        + f"\n\nBase: {base['name']}, {revision}weights and configuration with the hash `{base['sha256']}`"
        + ("." if hub or built_in else "; a folder of the team's own, which no hub is known to hold.")
    )


def _data(facts: Mapping[str, Any]) -> str:
    data = facts["data"]
    rows = [("content hash", f"`{data['hash']}`"), ("rows in", data["rows_in"]), ("rows used", data["rows_used"])]
    refused = data.get("refused")
    text = ", ".join(f"{name} {count}" for name, count in refused.items()) or "none" if refused is not None else None
    rows.append(("rows refused", text))
    parents = data.get("parents") or {}
    rows += [("licence", parents.get("licence")), ("origin", parents.get("origin"))]
    rows += [
        (f"source {source['name']}", f"{source['rows']} rows, sha256 `{source['sha256']}`")
        for source in parents.get("sources", ())
    ]
    return "## Data\n\n" + _table(("what", "value"), [(name, _or_not(value, "not recorded")) for name, value in rows])


def _settings(facts: Mapping[str, Any]) -> str:
    numbers = [(name, value, meaning) for name, value, meaning in objective_numbers(facts["recipe"]["objective"])]
    settings = [(f"`{key}`", value) for key, value in flattened(facts["recipe"])]
    return (
        "## Training\n\n"
        + _table(("number", "value", "meaning"), numbers)
        + f"\n\nThe weights are those of step {facts['step']}. Every setting:\n\n"
        + _table(("setting", "value"), settings)
        + f"\n\nHardware: {_hardware(facts)}"
    )


def _hardware(facts: Mapping[str, Any]) -> str:
    hardware = facts["hardware"]
    return ", ".join(f"{key} {value}" for key, value in hardware.items()) if hardware else "not recorded"


def _results(facts: Mapping[str, Any]) -> str:
    results = facts["results"]
    if not results:
        return f"## Results\n\nHeld-out accuracy: {_NOT_MEASURED} (the run had no held-out pairs)."
    before, after, moved = results["before"], results["after"], results["differences"]
    rows = [
        (name.replace("_", " "), _words(before.get(name)), _words(after.get(name)), _words(moved.get(name)))
        for name in ("pairwise_accuracy", "length_balanced_accuracy", "accuracy_by_sum", "spearman_length")
    ]
    replies = [
        (name, _words(_reply(before, key)), _words(_reply(after, key)), _words(moved.get(key)))
        for key, name in _REPLIES
    ]
    slices = [
        (f"{name}: {value}", _words(_slice(before, name, value)), _words(number), _NOT_MEASURED)
        for name, values in after.get("slices", {}).items()
        for value, number in values.items()
    ]
    heads = ("figure, 95 % interval, n", "before", "after", "change")
    return (
        f"## Results\n\n{results['verdict']['sentence']}\n\n"
        + "".join(f"{caution}\n\n" for caution in results["verdict"]["cautions"])
        + _table(heads, [*rows, *replies])
        + "\n\nAccuracy by slice:\n\n"
        + _table(heads[:3], [row[:3] for row in slices])
    )


def _limits(facts: Mapping[str, Any]) -> str:
    after = (facts["results"] or {}).get("after") or {}
    ended = _reply(after, "ended")
    lines = [
        "Toxicity, refusals, bias and resistance to attacks: not measured here; `evenhand gate` measures them against an "
        "incumbent, and the registry keeps what it found.",
        f"Drift from the base on other tasks: {_NOT_MEASURED} here; the gate's tasks measure it.",
        f"Greedy replies that end by themselves: {_words(ended)}.",
        "SimPO has no reference model that would hold the policy near its base.",
    ]
    if note := (facts["base"].get("origin") or {}).get("note"):
        lines.append(f"The base's weights are {note}.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _proof(facts: Mapping[str, Any]) -> str:
    rows = [
        (
            found["loader"],
            str(found["rows"]),
            f"{found['largest_difference']:.1e} (allowed {found['tolerance']:.0e})",
            _or_not(found["replies_alike"]),
        )
        for found in facts["proofs"]
    ]
    heads = ("loaded by", "rows", "largest difference, nats per token", "greedy replies alike, of 4")
    return (
        "## Proof\n\n" + _table(heads, rows) + "\n\n`evenhand verify` tells whether these files are what was shipped."
    )


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Text that cannot leave its cell or become markup."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _words(value: Mapping[str, Any] | None) -> str:
    return figure(value).words() if value else _NOT_MEASURED


def _reply(side: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    return (side.get("generation") or {}).get(key)


def _slice(side: Mapping[str, Any], name: str, value: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = side.get("slices", {}).get(name, {}).get(value)
    return found


def _or_not(value: object, instead: str = _NOT_MEASURED) -> str:
    return instead if value is None else str(value)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and ":" not in name
