"""YAML files that people write: a key that stands twice is an error, where YAML's readers would drop the first in silence."""

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path) -> Any:
    """What the file holds.

    Raises OSError, and ValueError in one line for what is no YAML or says a key twice in one mapping.
    """
    text = path.read_text(encoding="utf-8")
    try:
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), set(), set())
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def _refuse_twice(node: yaml.Node | None, around: set[int], seen: set[int]) -> None:
    """Raise ValueError for a key that one mapping has twice, with both lines, and for an alias within what it names.

    `around` are the nodes that hold this one, `seen` those that were looked through; an alias is looked through once.
    """
    if node is None or id(node) in seen:
        return
    if id(node) in around:
        raise ValueError(f"an alias in line {node.start_mark.line + 1} stands within what it names")
    around.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, around, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"`{name[1]}` stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
            _refuse_twice(value, around, seen)
    around.discard(id(node))
    seen.add(id(node))
