"""A constitution: written principles by which a model compares, criticises and rewrites replies, as one YAML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evenhand.errors import DataError
from evenhand.files import sha256
from evenhand.yamlfile import read_yaml

Text = Annotated[str, Field(min_length=1)]


class Principle(BaseModel):
    """One principle: how it compares two replies, and, where replies are to be rewritten, what it asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    prefer: Text = Field(description="a sentence to the judge: which of two replies to prefer")
    critique: Text | None = Field(None, description="what to look for in one reply")
    revise: Text | None = Field(None, description="how to rewrite it")
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(1.0, description="how often it is drawn")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Constitution:
    """The principles in their order, and the hash of the file they were read from."""

    name: str
    principles: tuple[Principle, ...]
    sha256: str

    @property
    def revising(self) -> tuple[Principle, ...]:
        """The principles that say how a reply is criticised and rewritten."""
        return tuple(one for one in self.principles if one.critique is not None and one.revise is not None)


def drawn(principles: tuple[Principle, ...], name: str) -> Principle:
    """One of the principles by their weights, always the same for one name.

    Bai et al. 2022 (arXiv 2212.08073, sections 3.1 and 4.1) draw one at random for each comparison and each revision.

    >>> rare, usual = Principle(id="rare", prefer="x"), Principle(id="usual", prefer="y", weight=9)
    >>> [drawn((rare, usual), f"question {i}").id for i in range(3)]
    ['usual', 'rare', 'usual']
    """
    place = int(sha256(name.encode())[:13], 16) / 16**13 * sum(one.weight for one in principles)
    for one in principles:
        place -= one.weight
        if place < 0:
            return one
    return principles[-1]


def read_constitution(path: Path) -> Constitution:
    """The constitution in a YAML file with `name` and a list `principles`; raises DataError that names the place."""
    try:
        told, sha = read_yaml(path), sha256(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the constitution cannot be read ({str(error)[:200]}); write a YAML file.") from error
    try:
        file = _File.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: `{place}`: {first['msg']}; a constitution has `name` and `principles`, each with `id` and `prefer`, and "
            "with `critique` and `revise` where it rewrites."
        ) from error
    ids = [one.id for one in file.principles]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise DataError(f"{path}: the principle `{twice[0]}` stands twice; give each an `id` of its own.")
    lone = [one.id for one in file.principles if (one.critique is None) != (one.revise is None)]
    if lone:
        raise DataError(f"{path}: the principle `{lone[0]}` has one of `critique` and `revise`; give both, or neither.")
    return Constitution(file.name, file.principles, sha)
