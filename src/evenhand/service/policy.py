"""What is watched and how: the rates, the false alarms that are accepted, when alarms open and close."""

import json
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from evenhand.errors import UserError
from evenhand.yamlfile import read_yaml

Signal = Literal["takeover", "escalation", "abandoned", "edit", "thumb_down"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

Share = Annotated[float, Field(gt=0, lt=1)]


class Policy(BaseModel):
    """When alarms open and close, over all drafts and by category.

    `false_alarms` is the chance that any alarm at all opens in a quiet period of `period_drafts` drafts. Half of it goes
    to the rates over all drafts, half to those by category, in equal parts within each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: tuple[Signal, ...] = Field(SIGNALS, description="rates that are watched; each a share of drafts or thumbs")
    false_alarms: Share = Field(0.02, description="chance of any false alarm in a quiet period, all alarms together")
    period_drafts: PositiveInt = Field(20_000, description="drafts in that period; about a quarter of a year's")
    baseline_drafts: PositiveInt = Field(10_000, description="earlier drafts before anything is watched")
    category_drafts: PositiveInt = Field(500, description="earlier drafts, or thumbs, before a category is watched")
    rise: float = Field(1.2, ge=1.2, description="smaller rises are not told, however sure; 1.2 is a fifth more")
    closes_at: float = Field(
        1.1, ge=1.0, description="an alarm closes when the latest rate is at most so many times the old"
    )
    closing_drafts: PositiveInt = Field(
        1_000,
        description="the latest drafts that decide whether an alarm closes; on thumbs and in a category their share of them, "
        "and at least as many as showed the rise",
    )
    look_drafts: PositiveInt = Field(
        100,
        description="new drafts before the rates are looked at again; below period_drafts / 200 false alarms are more, and a "
        "day's drafts are right where outcomes come hours after them",
    )
    rollback: Literal["advise", "automatic"] = Field(
        "advise",
        description="advise: a person decides; automatic: the registry's fallback is brought back at once, where it served "
        "side by side with the model in production and did better",
    )
    rollback_tenants: tuple[str, ...] = Field(
        ("default",),
        min_length=1,
        description="tenants whose alarms may bring that about; whoever holds a write key of theirs can forge them",
    )


def read_policy(file: Path | None) -> Policy:
    """The policy in a YAML file, else the built-in one; raises UserError that names the key that is wrong."""
    if file is None:
        return Policy()
    try:
        value = read_yaml(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; give a YAML file, or none to use the built-in policy.") from error
    except ValueError as error:
        raise UserError(f"{file} is not YAML: {error}.") from error
    try:
        return Policy.model_validate({} if value is None else value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: `{'.'.join(map(str, first['loc']))}`: {first['msg']}.") from error


def policy_text(policy: Policy) -> str:
    """The policy as YAML to start from, each key with what it means."""
    lines = ["# When alarms open and close."]
    for key, value in policy.model_dump(mode="json").items():
        lines.append(f"{key}: {json.dumps(value)}  # {Policy.model_fields[key].description}")
    return "\n".join(lines) + "\n"
