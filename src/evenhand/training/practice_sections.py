"""The `objective` sections of methods that learn from replies they draw."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from evenhand.objectives.practised import Practised
from evenhand.training.reward_section import RewardPart
from evenhand.training.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class DrawingSection(Section):
    """What all methods that draw replies ask for; a step has `training.batch_pairs` prompts."""

    name: str = Field(description="the method")
    rewards: Annotated[tuple[RewardPart, ...], Field(min_length=1)] = Field(
        description="what a reply is worth: the weighted sum of these"
    )
    replies: PositiveInt = Field(description="replies drawn to each prompt of a step")
    max_new_tokens: PositiveInt = Field(description="a reply that has not ended by then is cut")
    kl: Annotated[float, Field(ge=0)] = Field(description="weight of the distance from the starting model, per nat")

    def resolved(self) -> dict[str, Any]:
        """Every key with its value."""
        return self.model_dump(mode="json")

    def build(self) -> Practised:
        """What the run is known by; the losses are in `online`."""
        return Practised(self.resolved())


class GroupSection(DrawingSection):
    """What GRPO and RLOO share: replies to one prompt are compared with each other. TRL trains them."""

    name: Literal["grpo", "rloo"] = Field(description="the method")
    replies: Annotated[int, Field(ge=2)] = Field(description="replies drawn to each prompt of a step, to be compared")
    passes: PositiveInt = Field(1, description="optimizer steps on each step's replies")
    clip: PositiveFloat = Field(0.2, description="how far a token's ratio may leave 1 and still be learned from")
    temperature: PositiveFloat = Field(1.0, description="of drawing")
    at_once: PositiveInt = Field(
        8, description="most replies that a gradient is taken of at a time; fewer need less memory"
    )
    leave_out_cut: bool = Field(False, description="learn nothing from replies that did not end")
    vllm: bool = Field(False, description="draw with vLLM in this process; false: with transformers")


class GRPOSection(GroupSection):
    """GRPO."""

    name: Literal["grpo"] = Field(description="the method")
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field(
        "dapo",
        description="how tokens are weighed: grpo: the paper's mean of means; dapo, bnpo: per token; dr_grpo: by the limit",
    )
    scale: Literal["group", "batch", "none"] = Field(
        "group", description="divide advantages by the deviation of rewards in a group, in a step, or not"
    )


class RLOOSection(GroupSection):
    """RLOO."""

    name: Literal["rloo"] = Field(description="the method")
    whiten: bool = Field(False, description="scale advantages of a step to mean 0 and variance 1")


class PPOSection(DrawingSection):
    """PPO with a value head."""

    name: Literal["ppo"] = Field(description="the method")
    passes: PositiveInt = Field(4, description="passes over each step's replies")
    minibatches: PositiveInt = Field(1, description="optimizer steps in each pass")
    clip: PositiveFloat = Field(0.2, description="how far a token's ratio may leave 1 and still be learned from")
    value_clip: PositiveFloat = Field(
        0.2, description="how far a value may leave what it was and still be learned from"
    )
    value_weight: Annotated[float, Field(ge=0)] = Field(0.1, description="weight of the value's loss")
    discount: Share = Field(1.0, description="what a later reward is multiplied by, per token")
    lam: Share = Field(0.95, description="lambda of generalised advantage estimation")
    whiten_rewards: bool = Field(False, description="scale rewards per token to variance 1 before advantages are taken")
    unfinished: float | None = Field(None, description="score of a reply that did not end; null: its own")
