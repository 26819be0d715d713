"""`deterministic`: what it switches, and that it leaves torch as it was."""

import pytest
import torch

from evenhand.training.determinism import determinism
from evenhand.training.identity import settings_by_name
from evenhand.training.sections import TrainingSection

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SECTION = TrainingSection(batch_pairs=2, steps=1, learning_rate=1e-4, seed=0)


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [(None, CPU, True), (None, CUDA, False), (False, CPU, False), (True, CUDA, True), (True, CPU, True)],
)
def test_it_is_on_where_asked_and_by_default_on_a_cpu(
    asked: bool | None, device: torch.device, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert not torch.are_deterministic_algorithms_enabled()
    with determinism(asked, device) as chosen:
        assert chosen is wanted
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # flash attention heeds only the strict form
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_run_that_dies_leaves_torch_as_it_was() -> None:
    with pytest.raises(KeyError), determinism(True, CPU):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()


def test_it_may_change_between_two_starts_of_a_run() -> None:
    asked = SECTION.model_copy(update={"deterministic": True})
    before, now = (settings_by_name("training", section.model_dump(mode="json")) for section in (SECTION, asked))
    assert before == now
