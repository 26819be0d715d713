"""YAML files that people write: a key that stands twice is an error, where YAML's readers would drop the first in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path) -> Any:
    """What the file holds.

    Raises OSError, and ValueError in one line for what is no YAML or says a key twice in one mapping.
    """
    text = path.read_text(encoding="utf-8")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        for key, first, second in _twice(node):
            raise ValueError(f"`{key}` stands twice, in lines {first} and {second}")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Keys that one mapping has twice, with both lines, counted from 1."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                yield name[1], seen[name], key.start_mark.line + 1
            seen[name] = key.start_mark.line + 1
            yield from _twice(value)
