"""The model as it was before training, and how far it has moved since: along replies made now, or those that a run kept."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from evenhand.errors import UserError
from evenhand.evaluation.drift import Along, Drift, Told, drift, log_probs_of
from evenhand.evaluation.evaluate import Narrator
from evenhand.evaluation.replies import read_replies
from evenhand.files import write_json
from evenhand.lifecycle.appraisal import Say, run_recipe
from evenhand.lifecycle.base import weights_hash
from evenhand.model.encode import EncodedSide
from evenhand.model.forward import Policy
from evenhand.model.load import Source, choose_device, choose_dtype, find_source, load_model, load_tokenizer
from evenhand.model.modes import encoder_for
from evenhand.model.reference import adapter_off


class Start:
    """The base with its adapter off, a second model, or not known."""

    def __init__(self, policy: Policy, other: Policy | None) -> None:
        self._policy, self._other = policy, other

    @property
    def is_known(self) -> bool:
        """Whether there is a model to compare with."""
        own = isinstance(self._policy.model, PeftModel) and not self._policy.gives_rewards  # whose first head is gone
        return self._other is not None or own

    @contextmanager
    def policy(self) -> Iterator[Policy]:
        """The start as a policy, until the end of the block."""
        if self._other is not None:
            yield self._other
        else:
            assert isinstance(self._policy.model, PeftModel)
            with adapter_off(self._policy.model):
                yield self._policy


def moved_from(start: Start, now: Policy, paths: tuple[Along, Along], report: Told) -> Drift:
    """The divergence of `now` from its start along its own replies, and of the start from it along the start's."""

    def at_start(side: EncodedSide) -> torch.Tensor:
        with start.policy() as policy:
            return log_probs_of(policy.model)(side)

    return drift(log_probs_of(now.model), at_start, paths, report)


def kept_drift(run: Path) -> dict[str, Any] | None:
    """The drift that was measured before of the model that the run has now; None where it was not."""
    file = _file(run)
    if not file.exists():
        return None
    value = json.loads(file.read_text(encoding="utf-8"))
    found: dict[str, Any] | None = value["drift"] if value["weights"] == _weights(run) else None
    return found


def run_drift(run: Path, say: Say, narrate: Narrator) -> dict[str, Any]:
    """The drift of a run's model along the replies that it kept of before and after; kept beside them for the next time.

    Raises UserError for a run that kept no replies.
    """
    if (kept := kept_drift(run)) is not None:
        return kept
    files = [run / "rows" / f"replies-{when}.json" for when in ("after", "before")]
    if missing := [file for file in files if not file.exists()]:
        raise UserError(f"{missing[0]} is missing: drift is measured along replies, and this run kept none.")
    recipe, source, device = run_recipe(run), find_source(str(run)), choose_device()
    dtype = choose_dtype(recipe.model.dtype, device)
    say(f"measuring how far {run} has moved from {recipe.model.source}")
    now = Policy(load_model(source, dtype, device))
    adapted = isinstance(now.model, PeftModel)
    start = Start(now, None if adapted else Policy(load_model(find_source(recipe.model.source), dtype, device)))
    encode = encoder_for(load_tokenizer(source), replace(recipe.form, max_tokens=1 << 30))
    own, begun = (Along.of(read_replies(file), encode) for file in files)
    found = moved_from(start, now, (own, begun), lambda done, n: narrate("measuring drift", done, n)).json()
    write_json(_file(run), {"weights": _weights(run), "drift": found})
    return found


def _file(run: Path) -> Path:
    return run / "rows" / "drift.json"


def _weights(run: Path) -> str:
    return weights_hash(Source(run.name, run / "model"))
