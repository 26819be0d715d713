"""What all tests share: where real data lies, and quiet libraries."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
for room in (
    "model",
    "training",
    "lifecycle",
    "online",
    "evaluation",
):  # where helpers that several rooms' tests share lie
    sys.path.insert(0, str(Path(__file__).parent / room))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands take the longest of all tests: begun last, they would keep one process waiting for the other."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real preference data; tests that need it skip where it is absent."""
    folder = os.environ.get("EVENHAND_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EVENHAND_DATA names no folder with real preference data")
    return Path(folder)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random chat model, as transformers saves it."""
    from small_model import save_small_model

    return save_small_model(tmp_path_factory.mktemp("model") / "small")
