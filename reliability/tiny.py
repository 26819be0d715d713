"""What all drills share: a tiny random Llama, 256 wide, trained in forked children that can be killed in milliseconds."""

import faulthandler
import hashlib
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ground

from architectures import tiny
from small_training import OBJECTIVE, settings, some_pairs

from evenhand.errors import EvenhandError
from evenhand.model.adapter import Adapter
from evenhand.training.checkpoint import verify_checkpoint
from evenhand.training.journal import read_journal
from evenhand.training.loop import Hooks
from evenhand.training.ranks import ranks_joined
from evenhand.training import tensorfile
from evenhand.training.train import Place, make_policy, train_policy

ROOT, verdict = ground.ROOT, ground.verdict

# The drills' small states are several files, as a real model's are.
tensorfile._LEAST_FILE = 2**18

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
# What a clock or the machine's mood decides.
_MOODS = {"seconds", "pairs_per_second", "memory_peak_bytes"}
# No child works this long without a word: one that does hangs.
DEADLINE_SECONDS = 120
QUICK = {"steps": 6, "checkpoint_every": 1, "token_budget": 200}


def train_tiny(
    folder: Path,
    hooks: Hooks | None = None,
    adapter: Adapter | None = None,
    allowed: tuple[str, ...] = (),
    size: tuple[int, int] = (17, 256),
    **changes: Any,
) -> None:
    """One run of the tiny model in `folder`, from wherever it is to its end; `size` is pairs and width."""
    pairs, width = size
    training = settings(**QUICK | changes)
    with ranks_joined():
        folder.mkdir(parents=True, exist_ok=True)
        policy = make_policy(
            tiny("llama", **WIDE | {"hidden_size": width, "intermediate_size": 2 * width}), adapter, training
        )
        work = (some_pairs(pairs, largest_group=2), OBJECTIVE, training)
        train_policy(policy, work, Place(folder, allowed=allowed), hooks or Hooks())


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Do `work` in a child with its words in `log`; the process id. It exits as the command would.

    One that hangs leaves where it stood in `log` and exits with 1 after `DEADLINE_SECONDS`.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(environment)
        still_at_work()
        work()
        code = 0
    except EvenhandError as error:
        os.write(2, f"error: {error}\n".encode())
        code = error.exit_code
    except BaseException as error:
        os.write(2, f"traceback: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def still_at_work() -> None:
    """Move this process's deadline: its stack is written and it exits with 1 unless this is called again in time."""
    faulthandler.dump_traceback_later(DEADLINE_SECONDS, exit=True, file=2)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended_within(pid: int, seconds: float) -> int | None:
    """The child's exit code, or None where it has not ended after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a child of ours that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def fork_ranks(work: Callable[[], object], size: int, log: Path) -> list[int]:
    """Do `work` as `size` ranks on this machine; their process ids in order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [fork(work, log, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(size)]


def fingerprint(folder: Path, step: int = QUICK["steps"]) -> dict[str, str]:
    """A hash of each tensor of the checkpoint of `step`, of its plain state, and of each line of the journal."""
    checkpoint = verify_checkpoint(folder / "checkpoints" / f"step-{step:06d}")
    assert checkpoint is not None, f"{folder}: no whole checkpoint of step {step}"
    found = {name: _hash(tensor.numpy().tobytes()) for name, tensor in checkpoint.tensors().items()}
    found["state"] = _hash(json.dumps({k: v for k, v in checkpoint.state.items() if k not in _MOODS | {"parent_step"}}))
    for record in read_journal(folder / "journal.jsonl"):
        found[f"journal {record['step']}"] = _hash(json.dumps({k: v for k, v in record.items() if k not in _MOODS}))
    return found


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names whose bits differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _hash(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def import_what_a_run_imports() -> None:
    """Import here what training imports on its way, so that a child's short life is spent on training."""
    with tempfile.TemporaryDirectory() as scratch:
        names, before = Path(scratch) / "names", set(sys.modules)

        def work() -> None:
            train_tiny(Path(scratch) / "run", steps=1)
            names.write_text("\n".join(name for name in sys.modules if name not in before))

        assert ended(fork(work, Path(scratch) / "log")) == 0, (Path(scratch) / "log").read_text()
        for name in names.read_text().splitlines():
            with suppress(ImportError):  # some are made at run time
                importlib.import_module(name)


import_what_a_run_imports()
