"""The `objective` section of a recipe, one form for each method, chosen by `name`."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from evenhand.objectives.bradley_terry import BradleyTerry
from evenhand.objectives.cpo import CPO
from evenhand.objectives.dpo import DPO
from evenhand.objectives.hinge import Hinge, SLiC
from evenhand.objectives.ipo import IPO
from evenhand.objectives.kto import KTO
from evenhand.objectives.orpo import ORPO
from evenhand.objectives.presets import PRESETS
from evenhand.objectives.rdpo import RDPO
from evenhand.objectives.simpo import SimPO
from evenhand.objectives.supervised import Supervised
from evenhand.training.practice_sections import GRPOSection, PPOSection, RLOOSection
from evenhand.training.section import Section, nearest

_SMOOTHING = "share of labels assumed wrong"
_SFT_WEIGHT = "weight of the mean negative log-likelihood per chosen token"


class ReferenceSection(Section):
    """How a method that compares with the starting model gets that model's scores; which way moves no number."""

    reference: Literal["adapter_off", "model", "cached"] = Field(
        "adapter_off",
        description="adapter_off: the base with the adapter switched off; model: a second model; cached: scores kept in a file",
    )
    reference_model: str | None = Field(
        None, description="with `model` or `cached`: another model than the one to start from"
    )
    reference_cache: str | None = Field(
        None, description="with `cached`: a file that several runs share; left out: in the run folder"
    )

    @model_validator(mode="after")
    def _read(self) -> "ReferenceSection":
        if self.reference_model is not None and self.reference == "adapter_off":
            raise ValueError(
                "`reference_model` is read with `reference: model` or `cached`; with `adapter_off` it is the base"
            )
        if self.reference_cache is not None and self.reference != "cached":
            raise ValueError("`reference_cache` is read only with `reference: cached`; leave it out")
        return self


class SimPOSection(Section):
    """SimPO's numbers: beta and margin, or a named preset."""

    name: Literal["simpo"] = Field(description="the method")
    beta: PositiveFloat | None = Field(None, description="gradient temperature of the sigmoid")
    margin: float | None = Field(None, description="target gap in nats per token: the authors' gamma_beta_ratio")
    paper_gamma: float | None = Field(
        None, description="the margin in reward units, as in the paper and TRL: beta * margin"
    )
    preset: str | None = Field(None, description="published beta and margin: " + ", ".join(PRESETS))
    label_smoothing: float = Field(0.0, description=_SMOOTHING)
    hinge: bool = Field(False, description="hinge in place of the logistic loss")
    sft_weight: float = Field(0.0, description=_SFT_WEIGHT + "; above 0 it is CPO-SimPO")

    @model_validator(mode="after")
    def _complete(self) -> "SimPOSection":
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown{nearest(self.preset, list(PRESETS))}")
        if self.preset is None and self.beta is None:
            raise ValueError("`beta` is missing; published ones are 2 to 10, or name a `preset`")
        if self.preset is None and self.margin is None and self.paper_gamma is None:
            raise ValueError("give `margin` (nats per token) or `paper_gamma` (= beta * margin)")
        beta, margin = self._numbers()
        said = {
            "beta": (self.beta, beta),
            "margin": (self.margin, margin),
            "paper_gamma": (self.paper_gamma, beta * margin),
        }
        for name, (given, wanted) in said.items():
            if given is not None and not math.isclose(given, wanted, rel_tol=1e-9):
                raise ValueError(
                    f"`{name}` is {given:g} and the other keys make it {wanted:g}; leave it out, or the others"
                )
        return self

    def _numbers(self) -> tuple[float, float]:
        """beta and margin: a preset's, else those given, the paper's gamma divided by beta."""
        if self.preset is not None:
            return PRESETS[self.preset].beta, PRESETS[self.preset].margin
        assert self.beta is not None
        if self.margin is not None:
            return self.beta, self.margin
        assert self.paper_gamma is not None
        return self.beta, self.paper_gamma / self.beta

    def build(self) -> SimPO:
        """The objective these numbers make."""
        beta, margin = self._numbers()
        return SimPO(beta, margin, self.label_smoothing, self.hinge, self.sft_weight)

    def resolved(self) -> dict[str, Any]:
        """Every key, and the margin in both of its units."""
        made = self.build()
        return self.model_dump(mode="json") | {
            "beta": made.beta,
            "margin": made.margin,
            "paper_gamma": made.paper_gamma,
        }


class _Plain(Section):
    """A section whose keys are its numbers."""

    def resolved(self) -> dict[str, Any]:
        """Every key with its value."""
        return self.model_dump(mode="json")


class DPOSection(ReferenceSection, _Plain):
    """DPO on summed log-ratios, or on their means per token."""

    name: Literal["dpo"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the log-ratios; published ones are 0.01 to 0.5")
    label_smoothing: float = Field(0.0, description=_SMOOTHING)
    robust: bool = Field(False, description="correct the loss for that share instead of smoothing with it")
    length_normalised: bool = Field(False, description="divide each log-ratio by its answer's tokens")

    def build(self) -> DPO:
        """The objective these numbers make."""
        return DPO(self.beta, self.label_smoothing, self.robust, self.length_normalised)


class IPOSection(ReferenceSection, _Plain):
    """IPO."""

    name: Literal["ipo"] = Field(description="the method")
    beta: PositiveFloat = Field(description="the paper's tau: the gap is drawn to 1 / (2 * beta)")
    length_normalised: bool = Field(
        True, description="divide each log-ratio by its answer's tokens, as the authors did"
    )

    def build(self) -> IPO:
        """The objective these numbers make."""
        return IPO(self.beta, self.length_normalised)


class HingeSection(ReferenceSection, _Plain):
    """A hinge on log-ratios."""

    name: Literal["hinge"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the log-ratios")

    def build(self) -> Hinge:
        """The objective these numbers make."""
        return Hinge(self.beta)


class SLiCSection(_Plain):
    """SLiC-HF: a hinge on log-probabilities, without a reference."""

    name: Literal["slic"] = Field(description="the method")
    delta: PositiveFloat = Field(description="target gap of summed log-probabilities, nats")
    sft_weight: float = Field(description=_SFT_WEIGHT)

    def build(self) -> SLiC:
        """The objective these numbers make."""
        return SLiC(self.delta, self.sft_weight)


class RDPOSection(ReferenceSection, _Plain):
    """R-DPO: DPO in which length costs reward."""

    name: Literal["rdpo"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the log-ratios")
    alpha: float = Field(description="what a token costs, in reward")

    def build(self) -> RDPO:
        """The objective these numbers make."""
        return RDPO(self.beta, self.alpha)


class CPOSection(_Plain):
    """CPO."""

    name: Literal["cpo"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the summed log-probabilities; the paper's is 0.1")
    sft_weight: float = Field(description=_SFT_WEIGHT + "; TRL's cpo_alpha, 1.0 in the paper")
    label_smoothing: float = Field(0.0, description=_SMOOTHING)

    def build(self) -> CPO:
        """The objective these numbers make."""
        return CPO(self.beta, self.sft_weight, self.label_smoothing)


class ORPOSection(_Plain):
    """ORPO."""

    name: Literal["orpo"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the odds ratio: the paper's lambda, 0.1 to 0.5")

    def build(self) -> ORPO:
        """The objective these numbers make."""
        return ORPO(self.beta)


class KTOSection(ReferenceSection, _Plain):
    """KTO, on thumbs or on pairs taken apart."""

    name: Literal["kto"] = Field(description="the method")
    beta: PositiveFloat = Field(description="weight of the log-ratios; the paper's is 0.1")
    desirable_weight: PositiveFloat = Field(1.0, description="weight of liked answers")
    undesirable_weight: PositiveFloat = Field(1.0, description="weight of disliked answers")

    @model_validator(mode="after")
    def _no_cache(self) -> "KTOSection":
        if self.reference == "cached":
            raise ValueError(
                "`reference: cached` cannot serve KTO, which scores prompts with other prompts' answers, drawn anew in "
                "each step; take `adapter_off` or `model`"
            )
        return self

    def build(self) -> KTO:
        """The objective these numbers make."""
        return KTO(self.beta, self.desirable_weight, self.undesirable_weight)


class SupervisedSection(_Plain):
    """Supervised fine-tuning on answers: the chosen ones of pairs, or demonstrations."""

    name: Literal["sft"] = Field(description="the method")

    def build(self) -> Supervised:
        """The objective."""
        return Supervised()


class RewardSection(_Plain):
    """A reward model: a head on the last token of an answer, trained on which of two is better."""

    name: Literal["reward"] = Field(description="the method")
    margin: float = Field(0.0, description="how far apart two rewards should be")
    length_penalty: float = Field(
        0.0, description="reward per token that people give for length alone, kept out of the reward; 0 for none"
    )
    center: float = Field(
        0.0, description="weight of the squared sum of both rewards, which keeps them near zero; try 0.01"
    )

    def build(self) -> BradleyTerry:
        """The objective these numbers make."""
        return BradleyTerry(self.margin, self.length_penalty, self.center)


AnyObjective = (
    SimPOSection
    | DPOSection
    | IPOSection
    | HingeSection
    | SLiCSection
    | RDPOSection
    | CPOSection
    | ORPOSection
    | KTOSection
    | SupervisedSection
    | RewardSection
    | PPOSection
    | GRPOSection
    | RLOOSection
)
ObjectiveSection = Annotated[AnyObjective, Field(discriminator="name")]
SECTIONS: dict[str, type[Section]] = {
    "simpo": SimPOSection,
    "dpo": DPOSection,
    "ipo": IPOSection,
    "hinge": HingeSection,
    "slic": SLiCSection,
    "rdpo": RDPOSection,
    "cpo": CPOSection,
    "orpo": ORPOSection,
    "kto": KTOSection,
    "sft": SupervisedSection,
    "reward": RewardSection,
    "ppo": PPOSection,
    "grpo": GRPOSection,
    "rloo": RLOOSection,
}
