"""The `evenhand` command: one file per subcommand, errors as one sentence, exit codes as documented."""

import os
import sys
import warnings

import typer

from evenhand.cli.advise import advise
from evenhand.cli.audit import audit
from evenhand.cli.collect import collect
from evenhand.cli.compare import compare
from evenhand.cli.convert import convert
from evenhand.cli.curate import curate
from evenhand.cli.demo import demo
from evenhand.cli.evaluate import evaluate
from evenhand.cli.export import export
from evenhand.cli.feedback import feedback_app
from evenhand.cli.gate import gate
from evenhand.cli.init import init
from evenhand.cli.leaving import Leaving
from evenhand.cli.monitor import monitor_app
from evenhand.cli.registry import registry_app
from evenhand.cli.run import run as run_stages
from evenhand.cli.sample import sample
from evenhand.cli.score import score
from evenhand.cli.sweep import sweep
from evenhand.cli.train import train
from evenhand.cli.verify import verify
from evenhand.cli.vote import vote
from evenhand.errors import EvenhandError
from evenhand.files import DISK_ERRORS

app = typer.Typer(
    name="evenhand",
    help="Align a language model with pairwise preferences by SimPO, and prove that it got better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    init,
    audit,
    advise,
    curate,
    convert,
    train,
    sweep,
    score,
    evaluate,
    compare,
    vote,
    export,
    verify,
    gate,
    sample,
    collect,
):
    app.command()(command)
app.command("run")(run_stages)


app.add_typer(feedback_app)
app.add_typer(registry_app)
app.add_typer(monitor_app)


def run() -> None:
    """The console script: exit 0 done, 1 the answer is no, 2 the user's mistake, 3 a guard, 74 the disk, 130/143 stopped."""
    # No telemetry, and no chatter between our lines from the libraries underneath.
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)
    with Leaving():
        _run()


def _run() -> None:
    try:
        app()
    except EvenhandError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        sys.stderr.write(
            "error: out of memory; set a smaller `training.token_budget` or `training.checkpoint_activations: true` "
            "(neither moves a number), or a smaller model, and start again: the run goes on from its last checkpoint.\n"
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted.\n")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:  # a path that cannot be read or written, or the disk
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}.\n")
        raise SystemExit(74 if error.errno in DISK_ERRORS else 2) from None
    finally:
        sys.stdout = sys.stderr  # some libraries speak once more while Python ends, and stdout is for results


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, told without importing torch, whose error this may be."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        # A thread that cannot be started lacks room for its stack.
        or any(words in str(error) for words in ("can't allocate memory", "can't start new thread"))
    )
