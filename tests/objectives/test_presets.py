"""The presets are the published numbers, and each names where it was published."""

import pytest

from evenhand.objectives.presets import PRESETS
from evenhand.objectives.simpo import SimPO

# name: beta, gamma as the paper states it, learning rate
PUBLISHED = {
    "simpo-mistral-base": (2.0, 1.6, 3e-7),
    "simpo-mistral-instruct": (2.5, 0.25, 5e-7),
    "simpo-llama3-base": (2.0, 1.0, 6e-7),
    "simpo-llama3-instruct": (2.5, 1.375, 1e-6),
    "simpo-llama3-instruct-v0.2": (10.0, 3.0, 1e-6),
    "simpo-gemma2": (10.0, 5.0, 8e-7),
    "simpo-guide": (2.0, 1.0, None),
}


def test_no_preset_without_a_published_setting() -> None:
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_is_the_published_setting(name: str) -> None:
    beta, gamma, learning_rate = PUBLISHED[name]
    preset = PRESETS[name]
    assert preset.beta == beta
    assert preset.learning_rate == learning_rate
    assert SimPO(preset.beta, preset.margin).paper_gamma == pytest.approx(gamma, rel=1e-12)
    assert SimPO.from_paper(beta, gamma).margin == pytest.approx(preset.margin, rel=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_says_who_published_it(name: str) -> None:
    assert ("princeton-nlp/SimPO" in PRESETS[name].source) == (name != "simpo-guide")
    assert PRESETS[name].source
