"""The study that workers share: which trials there are, who has which, and what became of those whose worker is gone."""

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
import psutil
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from evenhand.errors import RecipeError, UserError
from evenhand.lifecycle.sweep.space import Params

# A worker on another machine that has not been heard of for so long is gone.
LOST_SECONDS = 600.0
# One that was killed before it could say who it is, counted from when we met it.
NAMELESS_SECONDS = 30.0
SEEN_EVERY_SECONDS = 60.0
_LOCK_SECONDS = 60
_ATTEMPTS = 4
_MADE_ALREADY = ("already exists", "UniqueViolation", "UNIQUE constraint")
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class Shared:
    """A study, who we are in it, and when we first met each running trial whose worker has not said who it is."""

    study: optuna.Study
    worker: str
    nameless: dict[int, float] = field(default_factory=dict)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials but those that were given up: lost ones are taken up again under another number."""
        return [one for one in self.study.get_trials(deepcopy=False) if one.state != TrialState.FAIL]

    def claim(self, distributions: Mapping[str, Any], most: int | None) -> Trial | None:
        """A trial of our own: one that waits, else a proposed one as long as there are fewer than `most` trials (None:
        never); None where there is neither, or where another worker has the same."""
        trials = self.trials
        if len(trials) >= (most or 0) and not any(one.state == TrialState.WAITING for one in trials):
            return None
        with studied(), suppress(UpdateFinishedTrialError):  # given up by another worker before we said who we are
            trial = self.study.ask(dict(distributions))
            trial.set_user_attr("seen", time.time())
            trial.set_user_attr("worker", self.worker)
            if not self._has_elder(trial) and not self._is_unasked(self.study.trials[trial.number], most):
                return trial
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return None

    def wait_for(self, params: Params, about: Mapping[str, Any]) -> None:
        """See that a trial with these values is there: waiting, running or done."""
        if not any(params_of(one) == dict(params) for one in self.trials):
            self.study.enqueue_trial(dict(params), user_attrs=dict(about))

    def take_back_lost(self, most: int | None) -> list[int]:
        """Let every trial whose worker is gone wait again; their numbers. Its run folder goes on where it is."""
        found: list[int] = []
        for one in self.trials:
            if one.state != TrialState.RUNNING or not self.is_lost(one):
                continue
            waits = [params_of(own) for own in self.trials if own.state == TrialState.WAITING]
            asked = not self._is_unasked(one, most)
            if asked and params_of(one) not in waits:  # before the other is given up, so that a kill here loses nothing
                kept = {key: own for key, own in one.user_attrs.items() if key not in ("worker", "seen")}
                self.study.enqueue_trial(params_of(one), user_attrs=kept | {"first": number_of(one)})
            with suppress(ValueError, UpdateFinishedTrialError):  # another worker was quicker
                self.study.tell(one.number, state=TrialState.FAIL)
                found += [one.number] if asked else []
        return found

    def _is_unasked(self, trial: FrozenTrial, most: int | None) -> bool:
        """Whether nobody wants a trial, since another worker was quicker between our look at the study and our claim: one
        that was proposed when it should have waited there, or one beyond `most`."""
        if most is None:
            return "fixed_params" not in trial.system_attrs
        return sum(number_of(other) < number_of(trial) for other in self.trials) >= most

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is gone."""
        named = trial.user_attrs.get("worker")
        if named is None:  # when it began is told in the local time of some machine, so we count from when we met it
            now = time.monotonic()
            return now - self.nameless.setdefault(trial.number, now) > NAMELESS_SECONDS
        host, pid, started = str(named).rsplit(":", 2)
        if host == platform.node():
            with suppress(psutil.Error):
                return f"{psutil.Process(int(pid)).create_time():.2f}" != started
            return True
        return time.time() - float(trial.user_attrs.get("seen", 0.0)) > LOST_SECONDS

    def _has_elder(self, trial: Trial) -> bool:
        """Whether the same values are done, or run under a lower number by a worker that lives."""
        own = dict(trial.params)
        return any(
            other.number != trial.number
            and params_of(other) == own
            and (
                other.state in _DONE
                or (other.state == TrialState.RUNNING and other.number < trial.number and not self.is_lost(other))
            )
            for other in self.trials
        )


def open_study(url: str, name: str, about: Mapping[str, str], prune: bool) -> Shared:
    """The study `name` in the database at `url`, made where it is not there.

    `about` says what its trials follow from. Raises UserError for a database that cannot be reached or stays locked,
    RecipeError for a study of something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lite = url.startswith("sqlite")
    driver = url.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4) if prune else optuna.pruners.NopPruner()
    connection: dict[str, Any] = {"connect_args": {"timeout": _LOCK_SECONDS}} if lite else {"pool_pre_ping": True}
    with studied():
        study = _created(driver, connection, name, pruner)
        before = study.user_attrs.get("about")
        if before is None:
            study.set_user_attr("about", dict(about))
    if before is not None and before != dict(about):
        differing = sorted(key for key in before.keys() | about.keys() if before.get(key) != about.get(key))
        raise RecipeError(
            f"the study {name} in {_shown(url)} is of another {', '.join(differing)}; name another --out or --study, or "
            "remove it."
        )
    return Shared(study, f"{platform.node()}:{os.getpid()}:{psutil.Process().create_time():.2f}")


def _created(url: str, connection: dict[str, Any], name: str, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """The study in its database; workers that start together make its tables together, and one of them fails at it."""
    for attempt in range(_ATTEMPTS):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=connection)
            return optuna.create_study(
                storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
            )
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            if attempt == _ATTEMPTS - 1 or not any(word in str(error) for word in _MADE_ALREADY):
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def studied() -> Any:
    """Turns what a database says into a sentence."""
    try:
        yield
    except OperationalError as error:
        said = " ".join(str(error.orig).split())
        cure = (
            "another process keeps it locked: end that one, or name a server's database with --study"
            if "locked" in said
            else "see that it can be reached and written"
        )
        raise UserError(f"the study's database does not answer ({said}); {cure}.") from error
    except (SQLAlchemyError, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the study's database cannot be used ({said}); PostgreSQL needs: pip install 'evenhand[postgres]'."
        ) from error
    except StorageInternalError as error:
        raise UserError(
            f"the study's database failed ({' '.join(str(error).split())[:200]}); start again to go on."
        ) from error


@contextmanager
def heartbeat(trial: Trial) -> Iterator[None]:
    """Lets the study know until the end that the worker of `trial` lives, whatever it is busy with."""
    ended = Event()

    def beat() -> None:
        while not ended.wait(SEEN_EVERY_SECONDS):
            try:
                trial.set_user_attr("seen", time.time())
            except UpdateFinishedTrialError:
                return  # it was given up, which the worker finds out when it tells its next figure
            except (SQLAlchemyError, StorageInternalError):
                continue  # one beat less; the next one comes long before the worker counts as gone

    thread = Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def number_of(trial: FrozenTrial) -> int:
    """The number under which a trial was first taken up, whatever became of its worker."""
    return int(trial.user_attrs.get("first", trial.number))


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial, also of one that waits."""
    return dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {}))


def done(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that came to an end, pruned ones included."""
    return [one for one in trials if one.state in _DONE]


def study_url(folder: Path) -> str:
    """The study that a sweep keeps in its own folder."""
    return f"sqlite:///{(folder / 'study.db').resolve()}"


def _shown(url: str) -> str:
    """The address without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
