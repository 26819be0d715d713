"""What is exported reaches a hub as it is, or one sentence says why not; a hub that is busy is asked again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub_server
from huggingface_hub import constants

from evenhand.errors import UserError
from evenhand.lifecycle.push import push_folder, require_pushable

# The hub's own client sends a file in a way that its HTTP library will not have for ever.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process takes for the public one."""
    with hub_server() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with weights and a card."""
    folder = tmp_path / "ship"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# harbor\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "manifest.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def pushed(folder: Path) -> tuple[str, list[str], list[float]]:
    """The address, what was said, and the seconds that would have been waited."""
    said: list[str] = []
    waited: list[float] = []
    return push_folder(folder, "team/harbor", said.append, waited.append), said, waited


def test_every_file_arrives_in_a_private_repository(shipped: Path, tmp_path: Path) -> None:
    """By another process, told of the hub as people tell it."""
    code = (
        "import sys, pathlib; from evenhand.lifecycle.push import push_folder as push, require_pushable as check; "
        "check('team/harbor'); print(push(pathlib.Path(sys.argv[1]), 'team/harbor', print))"
    )
    with hub_server() as hub:
        told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | told
        done = subprocess.run(
            [sys.executable, "-c", code, shipped], env=env, capture_output=True, text=True, check=True
        )
    assert done.stdout == f"{hub.url}/team/harbor\n"
    assert hub.repositories == {"team/harbor": contents(shipped)}
    assert hub.private == {"team/harbor": True}


def test_a_busy_hub_is_asked_again_and_nothing_is_sent_twice(hub: Hub, shipped: Path) -> None:
    hub.failures = {"api/repos/create": [503, 429], "api/models/team/harbor/commit": [502]}
    address, said, waited = pushed(shipped)
    assert address == f"{hub.url}/team/harbor"
    assert hub.repositories == {"team/harbor": contents(shipped)}
    assert waited == [1.0, 2.0, 1.0]
    assert said[0] == f"{hub.url} is busy or away (it answered 503: later, please); trying again in 1 s"
    assert sum(request.startswith("PUT") for request in hub.asked) == 1


def test_a_later_push_leaves_no_file_of_the_earlier_one(hub: Hub, shipped: Path) -> None:
    hub.repositories["team/harbor"], hub.private["team/harbor"] = {"old.safetensors": b"old"}, True
    pushed(shipped)
    assert hub.repositories == {"team/harbor": contents(shipped)}


def test_a_public_repository_is_refused(hub: Hub, shipped: Path) -> None:
    hub.repositories["team/harbor"], hub.private["team/harbor"] = {}, False
    with pytest.raises(UserError, match="team/harbor is public; make it private"):
        pushed(shipped)
    assert hub.repositories == {"team/harbor": {}}


def test_a_hub_that_stays_busy_is_said_with_what_to_do(hub: Hub, shipped: Path) -> None:
    hub.failures = {"api/repos/create": [503] * 9}
    with pytest.raises(UserError) as caught:
        pushed(shipped)
    assert str(caught.value) == (
        f"{shipped} is written, but team/harbor could not be uploaded to (it answered 503: later, please); when that is "
        f"mended, `hf upload team/harbor {shipped} . --private` does it."
    )
    assert hub.asked.count("POST /api/repos/create") == 4


@pytest.mark.parametrize("status", [403, 404, 422])
def test_a_refusal_is_not_asked_again(hub: Hub, shipped: Path, status: int) -> None:
    hub.failures = {"api/models/team/harbor/commit": [status]}
    with pytest.raises(UserError, match=rf"it answered {status}: later, please\); when that is mended, `hf upload"):
        pushed(shipped)
    assert sum("/commit/" in request for request in hub.asked) == 1
    assert hub.repositories["team/harbor"] == {}


def test_a_wrong_token_is_refused(hub: Hub, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="could not be uploaded to \\(it answered 401: Invalid username or password"):
        pushed(shipped)
    assert hub.repositories == {}


def test_a_hub_that_is_away_is_said(hub: Hub, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="Connection refused"):
        pushed(shipped)


def test_an_upload_that_cannot_succeed_is_refused_before_the_export(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_pushable("team/harbor")
    for name in ("a/b/c", "team/har bor", "-harbor", ""):
        with pytest.raises(UserError, match="is no repository of a hub"):
            require_pushable(name)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs a token that may write; log in with `hf auth login`"):
        require_pushable("team/harbor")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids it"):
        require_pushable("team/harbor")
    assert hub.asked == []
