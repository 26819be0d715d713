"""Stages of a pipeline, each done once: skipped where all that decides it is as it was, and its files are still there."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.errors import DataError, RecipeError
from evenhand.files import canonical_json, sha256, write_json

NAME = "stages.json"


@dataclass(frozen=True, slots=True)
class Stage:
    """A piece of work: `inputs` is all that decides what comes out, as JSON; `work` makes `outputs` and returns facts."""

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[Path, ...]
    work: Callable[[], dict[str, Any]]

    @property
    def key(self) -> str:
        """The hash of the inputs."""
        return sha256(canonical_json(self.inputs))


class Stages:
    """A pipeline's folder and what was done in it; `fixed` are hashes that no stage may change, such as a template's."""

    def __init__(self, folder: Path, fixed: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self._file = folder / NAME
        kept = self._read()
        self._done: dict[str, Any] = kept.get("stages", {})
        self._fixed: dict[str, str] = kept.get("fixed", {})
        folder.mkdir(parents=True, exist_ok=True)
        self.keep(fixed, "the recipe")

    def require(self, hashes: Mapping[str, str], where: str) -> None:
        """Raise RecipeError where a hash that must stay the same is another one in `where`."""
        for name, found in hashes.items():
            if self._fixed.get(name, found) != found:
                raise RecipeError(
                    f"the {name} of {where} is {found[:12]} and the earlier stages in {self.folder} had "
                    f"{self._fixed[name][:12]}; scores before and after would not compare, so start in another folder."
                )

    def keep(self, hashes: Mapping[str, str], where: str) -> None:
        """From now on these must stay the same; raises RecipeError where they were others before."""
        self.require(hashes, where)
        self._fixed |= hashes
        self._write()

    def perform(self, stage: Stage) -> dict[str, Any]:
        """The facts of a stage, from before where nothing that decides it has changed."""
        before = self._done.get(stage.name)
        if before and before["key"] == stage.key and all(path.exists() for path in stage.outputs):
            self._say(f"{stage.name}: nothing has changed, skipped")
            return dict(before["facts"])
        self._say(f"{stage.name}: started")
        began = time.monotonic()
        facts = stage.work()
        missing = [path for path in stage.outputs if not path.exists()]
        assert not missing, f"{stage.name} did not write {missing}"
        seconds = round(time.monotonic() - began, 1)
        self._done[stage.name] = {"key": stage.key, "seconds": seconds, "facts": facts, "inputs": dict(stage.inputs)}
        self._write()
        self._say(f"{stage.name}: done in {seconds:.0f} s")
        return facts

    def told(self) -> dict[str, dict[str, Any]]:
        """Seconds and facts of every stage that was done, by name."""
        return {name: {"seconds": own["seconds"], "facts": own["facts"]} for name, own in self._done.items()}

    def _read(self) -> dict[str, Any]:
        if not self._file.exists():
            return {}
        try:
            value = json.loads(self._file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self._file} is no list of stages ({error}); start in another folder.") from error
        assert isinstance(value, dict)
        return value

    def _write(self) -> None:
        write_json(self._file, {"fixed": self._fixed, "stages": self._done})
