"""A server that would feed or stop otherwise is refused, and one that runs the export says what evenhand itself says."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_run import finished_run

from evenhand.data.schema import Message
from evenhand.errors import ExportError, UserError
from evenhand.evaluation.generate import Limits, generate
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.contestant import load_contestant
from evenhand.lifecycle.parity import serving_problems

PROMPTS = ("parcel refund", "Where is my kettle?")


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """An export of whole weights."""
    folder = tmp_path_factory.mktemp("served")
    export_run(finished_run(folder, small_model), folder / "out", Wanted(merge=True), lambda _: None)
    return folder / "out"


@pytest.fixture
def server(merged: Path, tmp_path: Path) -> Path:
    """A server's own copy of the model."""
    subprocess.run(["cp", "-r", merged, tmp_path / "server"], check=True)
    return tmp_path / "server"


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def other_role(server: Path) -> None:
    file = server / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant", "bot"))


def default_system(server: Path) -> None:
    file = server / "chat_template.jinja"
    file.write_text("<|im_start|>system\nBe good.<|im_end|>\n" + file.read_text())


def stripped(server: Path) -> None:
    file = server / "chat_template.jinja"
    file.write_text(file.read_text().replace("message['content']", "message['content'] | trim"))


def no_template(server: Path) -> None:
    (server / "chat_template.jinja").unlink()


def other_stop(server: Path) -> None:
    edit(server / "generation_config.json", eos_token_id=0)


def one_stop_more(server: Path) -> None:
    edit(server / "generation_config.json", eos_token_id=[2, 77])


def other_eos(server: Path) -> None:
    edit(server / "tokenizer_config.json", eos_token="<|endoftext|>")


DIFFERENCES: list[tuple[Callable[[Path], None], str]] = [
    (other_role, "chat template"),
    (default_system, "chat template"),
    (stripped, "chat template"),
    (no_template, "has no chat template"),
    (other_stop, "are missing, so replies run on"),
    (one_stop_more, "would cut replies short"),
    (other_eos, "eos_token"),
]


@pytest.mark.parametrize(("change", "said"), DIFFERENCES, ids=[change.__name__ for change, _ in DIFFERENCES])
def test_a_difference_is_found(merged: Path, server: Path, change: Callable[[Path], None], said: str) -> None:
    assert serving_problems(merged, server) == []
    change(server)
    assert said in " ".join(f"{problem.path} {problem.what}" for problem in serving_problems(merged, server))


def test_a_template_written_otherwise_is_the_same(merged: Path, server: Path) -> None:
    file = server / "chat_template.jinja"
    file.write_text("{#- the same -#}" + file.read_text())
    assert serving_problems(merged, server) == []


def test_an_export_for_another_server_is_refused(merged: Path, server: Path, tmp_path: Path) -> None:
    other_stop(server)
    run = merged.parent / "run"
    with pytest.raises(ExportError, match="would serve it otherwise: stop tokens"):
        export_run(run, tmp_path / "out", Wanted(serving=server), lambda _: None)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is not a folder"):
        serving_problems(merged, tmp_path / "missing")


@pytest.fixture
def address(merged: Path, tmp_path: Path) -> Iterator[str]:
    """`transformers serve` on loopback."""
    if importlib.util.find_spec("openai") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("the extra [serve] is not installed")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        Path(sys.executable).parent / "transformers",
        "serve",
        merged,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not start")


def test_a_server_says_greedily_what_evenhand_says(address: str, merged: Path) -> None:
    contestant = load_contestant(str(merged), "float32", lambda _: None)
    prompts = [((Message("user", text),), None) for text in PROMPTS]
    own = generate(contestant.policy.model, contestant.serving, prompts, Limits(12)).replies
    for text, reply in zip(PROMPTS, own):
        asked = {
            "model": str(merged),
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 12,
            "stream": False,
        }
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            said = json.loads(answer.read())["choices"][0]["message"]["content"]
        assert said == reply.text
