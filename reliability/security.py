"""X1 (training half), X2, X3, X8: nothing that is loaded runs code, no name leaves its folder, no secret is written,
and a whole run needs no network.

    python reliability/security.py
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import tiny  # first, since it finds the sources
from small_model import recipe_value, rows, save_small_model, write_recipe, write_rows

from evenhand.data.schema import Message
from evenhand.errors import EvenhandError
from evenhand.model.load import find_source, load_model, load_tokenizer
from evenhand.model.modes import Form, encoder_for
from evenhand.training.recipe import check_recipe

PICKLES = (
    *("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scheduler.bin", "rng_state.pth"),
    *("pytorch_model.bin", "adapter_model.bin", "model.pt", "model.ckpt", "state.pt", "state.pkl", "random.pth"),
    *("vhead.bin", ".metadata", "trainer_state.pkl", "data.pkl", "tokenizer.pkl", "weights.pth", "ema.pt"),
)
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{{ messages.__class__.__base__ }}",
    "{% set x = messages.append(1) %}",
    "{{ joiner.__init__.__globals__['os'].system('touch CANARY') }}",
)
NAMES = (
    *("..", ".", "", "/", "../x", "a/b", "a/../b", "/etc/passwd", "./a", ".hidden", "-rf", "~", "~/a", "a\\b", "..\\x"),
    *(
        "%2e%2e",
        "%2e%2e/x",
        "a%2fb",
        "a%00b",
        "a\0b",
        "a\nb",
        "a\n",
        "a\r",
        "a\tb",
        " a",
        "a ",
        "a b",
        "a#b",
        "a?b",
        "a*b",
    ),
    *(
        "C:",
        "C:\\x",
        "c:/x",
        "CON:",
        "\\\\host\\share",
        "file:///x",
        "a:b",
        "a;b",
        "a|b",
        "a&b",
        "a$b",
        "$(id)",
        "`id`",
    ),
    *(
        "a>b",
        "a<b",
        "a'b",
        'a"b',
        "a{b}",
        "\u2024\u2024/x",
        "\uff0e\uff0e",
        "\u202ea",
        "a\u200bb",
        "\u00e9",
        "A",
        "a" * 65,
    ),
    *("${HOME}", "@a", "a=b", "a,b", "a\x7fb"),
)
SECRETS = (
    *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN"),
    *(
        "MLFLOW_TRACKING_PASSWORD",
        "AZURE_CLIENT_SECRET",
        "DATABASE_URL",
        "SLACK_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "PGPASSWORD",
    ),
)


class Gadget:
    """What runs code when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


def canaries(scratch: Path, pickles: tuple[str, ...]) -> tuple[int, int]:
    """(traps that stayed shut, traps): pickles beside a model, a run and a checkpoint, custom code, templates."""
    canary = scratch / "canary"
    model = save_small_model(scratch / "model")
    run = scratch / "run"
    assert tiny.ended(tiny.fork(lambda: tiny.train_tiny(run, steps=2), scratch / "log")) == 0
    closed = []
    for name in pickles:
        places = (model / name, run / name, run / "checkpoints" / name)
        for place in places:
            place.write_bytes(pickle.dumps(Gadget(canary)))
        source = find_source(str(model))
        load_model(source, *_fp32()), load_tokenizer(source)
        tiny.ended(tiny.fork(lambda: tiny.train_tiny(run, steps=2), scratch / "log"))
        (run / "checkpoints" / "step-000002" / name).write_bytes(pickle.dumps(Gadget(canary)))
        tiny.ended(tiny.fork(lambda: tiny.train_tiny(run, steps=2), scratch / "log"))
        closed.append(not canary.exists())
        for place in (*places, run / "checkpoints" / "step-000002" / name, run / "checkpoints" / "damaged-step-000002"):
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    closed += [
        _custom_code_stays_shut(scratch, file, canary) for file in ("config", "tokenizer_config", "adapter_config")
    ]
    closed += [_template_stays_shut(scratch, text.replace("CANARY", str(canary)), canary) for text in ESCAPES]
    return sum(closed), len(closed)


def _custom_code_stays_shut(scratch: Path, file: str, canary: Path) -> bool:
    folder = save_small_model(scratch / f"custom-{file}")
    code = f"open({str(canary)!r}, 'w')\nclass Custom: pass\n"
    (folder / "modeling_custom.py").write_text(code)
    path = folder / f"{file}.json"
    value = json.loads(path.read_text()) if path.exists() else {"base_model_name_or_path": str(folder)}
    path.write_text(json.dumps(value | {"auto_map": {"AutoModelForCausalLM": "modeling_custom.Custom"}}))
    return _refused(lambda: load_model(find_source(str(folder)), *_fp32())) and not canary.exists()


def _template_stays_shut(scratch: Path, text: str, canary: Path) -> bool:
    folder = save_small_model(scratch / "template")
    tokenizer = load_tokenizer(find_source(str(folder)))
    tokenizer.chat_template = text + tokenizer.chat_template
    with suppress(Exception):  # a sentence or a library's error: what counts is that nothing ran
        encoder_for(tokenizer, Form(max_tokens=100))((Message("user", "a"),), "b", "c")
    return not canary.exists()


def names_inside(scratch: Path) -> tuple[int, int]:
    """(names that are refused or stay inside, names)."""
    held = 0
    root = (scratch / "runs").resolve()
    for name in NAMES:
        value = recipe_value(Path("model"), {"train": "x.jsonl"}) | {"name": name}
        held += _refused(lambda: check_recipe(value, "r")) or (root / name).resolve().parent == root
    return held, len(NAMES)


def offline_with_secrets(scratch: Path) -> tuple[int, int, str]:
    """(secrets that are in no artefact and no word, secrets, how the run without a network ended)."""
    model = save_small_model(scratch / "small")
    made = rows(26)
    data = {
        "train": str(write_rows(scratch / "train.jsonl", made[:18])),
        "validation": str(write_rows(scratch / "validation.jsonl", made[18:])),
    }
    recipe = write_recipe(scratch / "recipe.yaml", recipe_value(model, data, validate_every=2, checkpoint_every=1))
    planted = {name: f"canary-{i:02d}-{'x' * 20}" for i, name in enumerate(SECRETS)}
    command = [sys.executable, "-m", "evenhand", "train", str(recipe), "--out", str(scratch / "out" / "run")]
    alone = ["unshare", "-n"] if os.geteuid() == 0 and shutil.which("unshare") else []
    environment = os.environ | planted | {"PYTHONPATH": str(tiny.ROOT / "src")}
    done = subprocess.run([*alone, *command], env=environment, capture_output=True, text=True, check=False)
    broken = subprocess.run(
        [*command, "--set", "training.learnin=1"], env=environment, capture_output=True, text=True, check=False
    )
    words = (done.stdout + done.stderr + broken.stdout + broken.stderr).encode()
    written = [file.read_bytes() for file in (scratch / "out").rglob("*") if file.is_file()]
    kept = sum(not any(secret.encode() in content for content in (words, *written)) for secret in planted.values())
    how = f"exit {done.returncode} {'without a network' if alone else '(unshare needs root: with one)'}"
    if done.returncode or broken.returncode != 2:
        how += f": {done.stderr[-500:]} {broken.stderr[-200:]}"
    return kept, len(SECRETS), how


def _fp32() -> tuple[object, object]:
    import torch

    return torch.float32, torch.device("cpu")


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except EvenhandError:
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few pickles")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as scratch:
        shut, traps = canaries(Path(scratch), PICKLES[::7] if quick else PICKLES)
        print(f"X1 traps: {shut} of {traps} stayed shut", flush=True)
        inside, names = names_inside(Path(scratch))
        print(f"X2 names: {inside} of {names} refused or inside", flush=True)
        kept, secrets, how = offline_with_secrets(Path(scratch))
        print(f"X3 secrets: {kept} of {secrets} in no artefact and no word; X8 whole run: {how}", flush=True)
    good = [shut == traps, inside == names, kept == secrets, how.startswith("exit 0") and ":" not in how[:8]]
    return tiny.verdict("X1 X2 X3 X8 security", sum(good), len(good), "held")


if __name__ == "__main__":
    sys.exit(main())
