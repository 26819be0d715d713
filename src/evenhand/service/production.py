"""What the registry says: which models there are, which is in production and since when, and which would come back."""

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from evenhand.errors import RegistryError, UserError
from evenhand.lifecycle.ledger import Entry
from evenhand.lifecycle.registry import Registry, read_log, state_of

_REGISTRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Release:
    """The models in a registry by name with their manifest's hash; the one in production, its fallback, since when."""

    candidates: dict[str, str]
    incumbent: str | None
    fallback: str | None
    since_ms: int

    @property
    def names(self) -> frozenset[str]:
        """Every name and hash under which an event may name a model."""
        return frozenset(self.candidates) | frozenset(self.candidates.values())

    def known_as(self, name: str) -> frozenset[str]:
        """The names under which events know the candidate `name`."""
        return frozenset({name, self.candidates[name]})


class Production:
    """A registry's folder, read again now and then; one that cannot be read stays as it was, and `failing` says why."""

    def __init__(self, place: str) -> None:
        if "://" in place:
            raise UserError(f"{place} is not a folder, and the service calls nobody; give a folder, or leave it out.")
        if not (Path(place) / "log").is_dir():
            raise UserError(f"{place} holds no registry; `evenhand registry add` makes one, or leave --registry out.")
        self.registry = Registry(place)
        self.failing: str | None = None
        self._last: Entry | None = None
        self._release = self.read()

    def read(self) -> Release:
        """The registry as it is now; raises RegistryError where it is away, damaged, or has lost what was decided."""
        try:
            log = self._log()
        except RegistryError as error:
            self.failing = str(error)
            raise
        state = state_of(log)
        decided = [entry.content["when"] for entry in log if entry.content["action"] in ("promote", "rollback")]
        since_ms = round(datetime.fromisoformat(decided[-1]).timestamp() * 1000) if decided else 0
        self._release = Release(dict(state.candidates), state.incumbent, state.fallback, since_ms)
        self._read_at = time.monotonic()
        self._last, self.failing = (log[-1] if log else None), None
        return self._release

    @property
    def release(self) -> Release:
        """The registry as it was some seconds ago at most."""
        if time.monotonic() - self._read_at > _REGISTRY_SECONDS:
            self._read_at = time.monotonic()
            with suppress(RegistryError):  # what was known stays known, and events must not wait for it
                self.read()
        return self._release

    def folder(self, manifest_sha256: str) -> Path:
        """Where the model with that manifest lies."""
        return Path(self.registry.model_place(manifest_sha256))

    def _log(self) -> list[Entry]:
        """The log, which must go on from where it was read last: its entries are never changed nor taken away."""
        place, last = self.registry.place, self._last
        if not (Path(place) / "log").is_dir():
            raise RegistryError(f"{place} holds no registry any more; mount or restore it.")
        try:
            log = read_log(self.registry)
        except OSError as error:
            raise RegistryError(
                f"{place} cannot be read ({error.strerror}); look at its disk and its rights."
            ) from error
        if last and (len(log) < last.number or log[last.number - 1].sha256 != last.sha256):
            raise RegistryError(
                f"{place}: entry {last.number} of the log, read before, is not there any more; restore the log, or "
                "restart the service if it is another registry."
            )
        return log
