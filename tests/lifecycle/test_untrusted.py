"""Nothing that lies in a run, a base or a shipped folder is executed on its way through export, registry and gate."""

import json
import pickle
import subprocess
from pathlib import Path

import pytest
from small_run import finished_run
from test_registry import ME

from evenhand.errors import EvenhandError, ModelError
from evenhand.lifecycle.bundle import Wanted, export_run
from evenhand.lifecycle.contestant import load_contestant
from evenhand.lifecycle.manifest import entries, read_manifest, write_manifest
from evenhand.lifecycle.registry import Registry, add, model_problems, read_log, state_of

STRAY = ["training_args.bin", "optimizer.pt", "rng_state.pth", "x.pkl", "scheduler.bin", "y.ckpt", "z.joblib", "w.npy"]
WEIGHTS = ["pytorch_model.bin", "adapter_model.bin", "model.pt", "weights.pth", "pytorch_model-00001-of-00001.bin"]
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{% for x in range(9) %}{{ messages.append(x) }}{% endfor %}",
]


class Gadget:
    """Unpickling it creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A run on a base of its own."""
    folder = tmp_path_factory.mktemp("untrusted")
    subprocess.run(["cp", "-r", small_model, folder / "base"], check=True)
    return finished_run(folder, folder / "base")


@pytest.fixture
def run(clean: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", clean, tmp_path / "run"], check=True)
    return tmp_path / "run"


def test_no_pickle_is_opened_or_shipped(run: Path, canary: Path, tmp_path: Path) -> None:
    for name in (*STRAY, *WEIGHTS):
        (run / "model" / name).write_bytes(pickle.dumps(Gadget(canary)))
    (run / "model" / "modeling_trap.py").write_text(f"open({str(canary)!r}, 'w')")
    (run / "model" / "tokenizer_link.json").symlink_to("/etc/passwd")
    out = tmp_path / "out"
    export_run(run, out, Wanted(), lambda _: None)
    shipped = set(read_manifest(out)["files"])
    assert not shipped & {*STRAY, *WEIGHTS, "modeling_trap.py", "tokenizer_link.json"}
    assert not canary.exists()
    pickle.loads(pickle.dumps(Gadget(canary)))
    assert canary.exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer_config.json"])
def test_custom_code_in_a_run_is_refused(run: Path, canary: Path, tmp_path: Path, name: str) -> None:
    file = run / "model" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["trap.Trap", None]}}))
    (run / "model" / "trap.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(ModelError, match="auto_map"):
        export_run(run, tmp_path / "out", Wanted(), lambda _: None)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_that_breaks_out_is_refused(run: Path, canary: Path, tmp_path: Path, escape: str) -> None:
    (run / "model" / "chat_template.jinja").write_text(escape.replace("CANARY", str(canary)))
    with pytest.raises(EvenhandError):
        export_run(run, tmp_path / "out", Wanted(), lambda _: None)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if "staging" in path.name]


def test_a_registry_and_a_gate_open_no_pickle(run: Path, canary: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(run, out, Wanted(), lambda _: None)
    facts = {
        key: value for key, value in read_manifest(out).items() if key not in ("files", "format", "content_sha256")
    }
    for name in STRAY:
        (out / name).write_bytes(pickle.dumps(Gadget(canary)))
    write_manifest(out, facts)
    registry = Registry(str(tmp_path / "registry"))
    add(registry, out, "trap", ME)
    state = state_of(read_log(registry))
    assert model_problems(registry, state) == []
    kept = Path(registry.model_place(state.candidates["trap"]))
    assert entries(kept) == entries(out)
    load_contestant(str(kept), "float32", lambda _: None)
    assert not canary.exists()
    (out / "adapter_model.safetensors").rename(out / "adapter_model.bin")
    (out / "adapter_model.bin").write_bytes(pickle.dumps(Gadget(canary)))
    write_manifest(out, facts)
    with pytest.raises(ModelError, match="weights only as pickles"):
        load_contestant(str(out), "float32", lambda _: None)
    assert not canary.exists()


def test_no_secret_of_the_environment_is_shipped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        name: f"secret-{i}-canary" for i, name in enumerate(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"))
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    export_run(run, out, Wanted(), lambda _: None)
    add(Registry(str(tmp_path / "registry")), out, "one", ME)
    for file in [*out.rglob("*"), *(tmp_path / "registry").rglob("*")]:
        if file.is_file():
            assert not any(value.encode() in file.read_bytes() for value in secrets.values()), file
