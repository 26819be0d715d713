"""A reward as a recipe names it."""

from typing import Any

from pydantic import Field, model_validator

from evenhand.training.section import Section


class RewardPart(Section):
    """A reward and its weight; a plain text is the source of one that weighs 1."""

    source: str = Field(
        description="a reward run, a sequence classifier of one label, or a function: file.py:name or module:name"
    )
    weight: float = Field(1.0, description="what its value is multiplied by before all are added")
    arguments: dict[str, Any] = Field({}, description="given to the function in each call")

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value
