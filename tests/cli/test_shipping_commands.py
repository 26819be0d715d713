"""export, verify, gate and registry as a person and a script use them."""

import json
import subprocess
from pathlib import Path

import fsspec
import pytest
from hub_server import TOKEN, hub_server
from huggingface_hub import constants
from small_run import finished_run
from test_commands import Invoke, invoke
from trained_model import POLICY

from evenhand.lifecycle.policy import policy_text

__all__ = ["invoke"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return finished_run(tmp_path_factory.mktemp("cli"), small_model)


def test_from_a_run_to_production_and_back(invoke: Invoke, run: Path) -> None:
    shipped = invoke("export", run, "--out", "ship/one", "--json")
    assert shipped.code == 0, shipped.err
    found = json.loads(shipped.out)
    assert (found["folder"], found["kinds"], found["signed"]) == ("ship/one", ["adapter"], False)
    assert found["proofs"][0]["rows"] == 64
    assert invoke("verify", "ship/one").out == "ship/one is what was shipped; not signed\n"
    assert invoke("registry", "add", "ship/one", "--name", "one", "--why", "first").code == 0
    no = invoke("registry", "promote", "one")
    assert (no.code, no.out) == (1, "")
    assert no.err == "error: one is not promoted: no gate was given; pass the gate, or give a reason with --overrule.\n"
    yes = invoke("registry", "promote", "one", "--overrule", "nothing is there yet", "--who", "ann", "--json")
    assert json.loads(yes.out)["incumbent"] == "one"
    subprocess.run(["cp", "-r", "ship/one", "ship/two"], check=True)
    assert invoke("registry", "add", "ship/two", "--name", "two").code == 0
    manifest = json.loads(shipped.out)["manifest_sha256"]
    sides = {"candidate": {"manifest_sha256": manifest}, "incumbent": {"manifest_sha256": manifest}}
    Path("gate.json").write_text(json.dumps({"passed": True, "checks": [], **sides}))
    assert invoke("registry", "promote", "two", "--gate", "gate.json").code == 0
    assert json.loads(invoke("registry", "rollback", "--why", "complaints", "--json").out)["incumbent"] == "one"
    assert invoke("registry", "rollback").code == 2
    listed = invoke("registry", "list", "--log", "--check")
    assert listed.out.startswith("registry: in production one, fallback none\n")
    assert "promote one, overruling that no gate was given" in listed.out
    (Path(json.loads(invoke("registry", "list", "--json").out)["candidates"]["one"]["place"]) / "README.md").write_text(
        "x"
    )
    assert invoke("registry", "list", "--check", "--json").code == 1
    assert invoke("registry", "list").code == 0


def test_a_registry_behind_a_url_is_checked_and_a_place_without_one_is_refused(invoke: Invoke, run: Path) -> None:
    assert invoke("export", run, "--out", "ship", "-q").code == 0
    Path("store").mkdir()
    assert invoke("registry", "add", "ship", "--name", "one", "--registry", "memory://store").code == 0
    files = fsspec.filesystem("memory")
    assert invoke("registry", "list", "--check", "--registry", "memory://store").code == 0
    (weights,) = files.glob("/store/models/*/adapter_model.safetensors")
    files.pipe_file(weights, b"other")
    answer = invoke("registry", "list", "--check", "--registry", "memory://store")
    assert answer.code == 1
    assert "one: adapter_model.safetensors was changed" in answer.out
    for place in ("nowhere", "store", "memory://nowhere"):
        answer = invoke("registry", "list", "--check", "--registry", place)
        assert (answer.code, answer.out) == (2, "")
        assert f"{place} is no registry: it has no log." in answer.err


def test_a_tampered_folder_is_exit_1_and_no_folder_of_ours_exit_2(invoke: Invoke, run: Path) -> None:
    assert invoke("export", run, "--out", "ship", "-q").code == 0
    Path("ship/extra").write_text("x")
    answer = invoke("verify", "ship", "--json")
    assert answer.code == 1
    assert json.loads(answer.out)["problems"] == [{"path": "extra", "what": "was added"}]
    again = invoke("export", run, "--out", "ship")
    assert (again.code, again.err) == (2, "error: ship exists already; choose another --out, or remove it.\n")
    assert invoke("verify", ".").code == 2
    assert "has no manifest.json" in invoke("verify", ".").err


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_push_is_refused_before_anything_is_written_and_says_where_it_went(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no = invoke("export", run, "--out", "ship", "--push", "team/harbor")
    assert (no.code, no.out, Path("ship").exists()) == (2, "", False)
    assert no.err == (
        "error: --push needs a network, and HF_HUB_OFFLINE forbids it; unset it, or export without --push.\n"
    )
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yes = invoke("export", run, "--out", "ship", "--push", "team/harbor", "-q")
        assert yes.code == 0, yes.err
    assert yes.out.splitlines()[-1] == f"uploaded to {hub.url}/team/harbor"
    assert set(hub.repositories["team/harbor"]) == {file.name for file in Path("ship").iterdir()}
    assert hub.repositories["team/harbor"]["manifest.json"] == Path("ship/manifest.json").read_bytes()


def test_a_gate_says_yes_with_exit_0_and_no_with_exit_1(invoke: Invoke, small_model: Path) -> None:
    """A random model refuses nothing, which it can keep up, and finds no fact, which leaves nothing to lose."""
    policies = {"yes": POLICY.model_copy(update={"extraction": None, "ends": None, "length": None}), "no": POLICY}
    for name, policy in policies.items():
        Path(f"{name}.yaml").write_text(policy_text(policy))
    common = ("gate", small_model, "--against", small_model, "--dtype", "float32")
    yes = invoke(*common, "--policy", "yes.yaml", "--json")
    no = invoke(*common, "--policy", "no.yaml", "--json", "--out", "gate.json")
    assert (yes.code, no.code) == (0, 1), yes.err + no.err
    assert json.loads(yes.out)["passed"] is True
    assert json.loads(no.out) == json.loads(Path("gate.json").read_text())
    checks = {check["name"]: check for check in json.loads(no.out)["checks"]}
    assert (checks["extraction"]["passed"], checks["extraction"]["verdict"]) == (False, "cannot detect")
    words = invoke(*common, "--policy", "no.yaml").out
    assert "extraction cannot detect a loss: the incumbent is not shown to beat chance by the margin of 0.6" in words
    assert words.splitlines()[-1].startswith("not passed: extraction")
    assert "refusal phrases: balanced accuracy 0.901" in words


def test_a_gate_needs_two_models_and_writes_its_policy(invoke: Invoke) -> None:
    assert "a gate needs two models" in invoke("gate", "x").err
    assert invoke("gate", "--write-policy", "policy.yaml").code == 0
    assert "arithmetic:" in Path("policy.yaml").read_text()
    assert invoke("gate", "--write-policy", "policy.yaml").code == 2
    assert invoke("gate", "nowhere", "--against", "nowhere").code == 2


@pytest.mark.parametrize("command", ["add", "list", "promote", "rollback"])
def test_every_registry_command_shows_an_example(invoke: Invoke, command: str) -> None:
    answer = invoke("registry", command, "--help")
    assert answer.code == 0
    assert f"Example: evenhand registry {command}" in " ".join(answer.out.split())
    assert "--json" in answer.out
