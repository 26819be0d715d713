"""YAML that people write: a key that stands twice is said with both lines, and everything else is as PyYAML reads it."""

from pathlib import Path

import pytest
import yaml

from evenhand.data.rulebook import read_rules
from evenhand.errors import DataError, RecipeError, UserError
from evenhand.lifecycle.policy import read_policy
from evenhand.online.constitution import read_constitution
from evenhand.training.recipe import recipe_value
from evenhand.yamlfile import read_yaml

TWICE = "name: a\ntraining:\n  steps: 1\n  seed: 0\n  steps: 2\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TWICE, "`steps` stands twice, in lines 3 and 5"),
        ("- {a: 1, b: 2, a: 3}", "`a` stands twice, in lines 1 and 1"),
        ("name: [", "while parsing"),
        ("a: &a [*a]", "an alias in line 1 stands within what it names"),
        ("[" * 2000 + "]" * 2000, "nested too deeply"),
    ],
)
def test_what_is_no_file_of_a_person_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as found:
        read_yaml(written(tmp_path, text))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text", ["", "a: {b: 1}\nc: {b: 2}", "- a: 1\n- a: 2", "base: &b {x: 1}\nown: {<<: *b, y: 2}", "1: a\n'1': b"]
)
def test_other_files_are_read_as_pyyaml_reads_them(tmp_path: Path, text: str) -> None:
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("read", "error"),
    [(recipe_value, RecipeError), (read_policy, UserError), (read_rules, DataError), (read_constitution, DataError)],
)
def test_every_file_that_a_person_gives_is_read_so(tmp_path: Path, read, error) -> None:
    with pytest.raises(error, match=r"file\.yaml.*`steps` stands twice, in lines 3 and 5"):
        read(written(tmp_path, TWICE))
