"""Curation rules as a YAML file: an ordered list of named rules, each with its limits."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evenhand.data.bench import CurationRules
from evenhand.data.bias import BiasRule
from evenhand.data.rules import RULE_NAMES
from evenhand.errors import DataError
from evenhand.yamlfile import read_yaml

_LIMITS: Mapping[str, Mapping[str, tuple[str, type | tuple[type, ...]]]] = {
    "category": {"only": ("only_categories", list), "without": ("without_categories", list)},
    "annotator_cap": {"most": ("annotator_cap", int)},
    "majority": {"dawid_skene": ("dawid_skene", bool), "ties_outvote": ("ties_outvote", bool)},
    "contradiction": {"circles": ("contradictions", bool)},
    "length_ratio": {"most": ("max_length_ratio", (int, float))},
    "too_long": {
        "prompt_characters": ("max_prompt_characters", int),
        "answer_characters": ("max_answer_characters", int),
        "tokens": ("max_tokens", int),
    },
}
"""By rule the keys it takes: the field of CurationRules that each one sets, and its type."""

_BIAS: Mapping[str, type | tuple[type, ...]] = {"alpha": (int, float), "excess": (int, float), "trials": int}
_NEEDED = {"category": ("only", "without"), "annotator_cap": ("most",), "length_ratio": ("most",)}
_BEFORE_TIES = {"category", "too_long", "annotator_cap", "length_ratio"}


def read_rules(path: Path) -> CurationRules:
    """The rules in a YAML file; raises DataError as `rules_of` does."""
    try:
        told = read_yaml(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the rules cannot be read ({str(error)[:200]}); write a YAML file.") from error
    return rules_of(told, str(path))


def rules_of(told: object, path: str) -> CurationRules:
    """The rules that `path` states: `rules:` with a list of names, or of one name with its limits, and `families:`.

    Raises DataError that names the nearest known word for one that is not known, and for an order that leaves a pair
    without a winner.
    """
    if not isinstance(told, dict) or not isinstance(told.get("rules"), list):
        raise DataError(f"{path}: there is no list `rules`; begin with `rules:` and one `- name` a line.")
    for key in told.keys() - {"rules", "families"}:
        raise DataError(f"{path}: {_unknown(str(key), ('rules', 'families'))}")
    rules = replace(CurationRules(), order=(), dawid_skene=False)
    for entry in told["rules"]:
        rules = _with_rule(rules, entry, path)
    if "families" in told:
        rules = replace(rules, families=_checked(told["families"], (int, float), "families", path))
    return _sound(rules, path)


def _with_rule(rules: CurationRules, entry: object, path: str) -> CurationRules:
    name, limits = _entry(entry, path)
    if name not in RULE_NAMES:
        raise DataError(f"{path}: {_unknown(name, RULE_NAMES)}")
    if name in rules.order:
        raise DataError(f"{path}: the rule `{name}` stands twice; name each rule once.")
    known: Mapping[str, object] = _BIAS if name == "annotator_at_odds" else _LIMITS.get(name, {})
    for key in limits:
        if key not in known:
            raise DataError(f"{path}: in `{name}`, {_unknown(str(key), tuple(known))}")
    if name in _NEEDED and not any(key in limits for key in _NEEDED[name]):
        raise DataError(f"{path}: `{name}` needs {' or '.join(f'`{key}`' for key in _NEEDED[name])}.")
    if name == "annotator_at_odds":
        checked = {key: _checked(value, _BIAS[key], key, path) for key, value in limits.items()}
        return replace(rules, order=(*rules.order, name), annotators_at_odds=BiasRule(**checked))
    fields: dict[str, Any] = {"balance_length": True} if name == "length_balance" else {}
    for key, value in limits.items():
        field, kind = _LIMITS[name][key]
        found = _checked(value, kind, key, path)
        fields[field] = tuple(map(str, found)) if isinstance(found, list) else found
    return replace(rules, order=(*rules.order, name), **fields)


def _entry(entry: object, path: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        (name, limits) = next(iter(entry.items()))
        if isinstance(limits, dict):
            return str(name), limits
    raise DataError(f"{path}: {entry!r} is no rule; write `- name` or `- name: {{limit: value}}`.")


def _checked(value: object, kind: type | tuple[type, ...], key: str, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(f"{path}: `{key}` is {value!r}, which is not of the type it needs.")
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        raise DataError(f"{path}: `{key}` is {value}; it must be above 0.")
    return value


def _sound(rules: CurationRules, path: str) -> CurationRules:
    for name in ("tie", "contradiction"):
        if name not in rules.order:
            raise DataError(f"{path}: the rule `{name}` is missing; without it a pair may have no winner.")
    early = set(rules.order[: rules.order.index("tie")]) - _BEFORE_TIES
    if early:
        raise DataError(f"{path}: `{sorted(early)[0]}` compares winners, so it must come after `tie`.")
    return rules


def _unknown(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    meant = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known) or 'none'}."
    return f"`{word}` is not known; {meant}"
