"""Write requirements.lock and requirements-dev.lock from the environment that runs this: exact versions, no local ones.

Run it with the environment's own Python after changing pyproject.toml and installing what changed:
.venv/bin/python scripts/lock.py
"""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TESTED_EXTRAS = ("tensorboard", "mlflow", "wandb", "trackio", "sign", "serve", "postgres", "traces", "rl")


def closure(wanted: list[str]) -> dict[str, str]:
    """Name and version of every package that `wanted` needs here, itself included."""
    found: dict[str, str] = {}
    queue = [Requirement(line) for line in wanted]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while queue:
        requirement = queue.pop()
        extras = tuple(sorted(requirement.extras))
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        installed = distribution(name)
        # A local version such as +cpu is one machine's build; the plain one is what every index has.
        found[name] = installed.version.partition("+")[0]
        for line in installed.requires or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                queue.append(inner)
    return found


def main() -> None:
    """Write both locks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    run = closure(project["dependencies"])
    dev = closure([*project["dependencies"], *optional["dev"], *(r for name in TESTED_EXTRAS for r in optional[name])])
    write("requirements.lock", run)
    write("requirements-dev.lock", dev)


def write(name: str, versions: dict[str, str]) -> None:
    """One `name==version` a line."""
    text = "# Written by scripts/lock.py.\n" + "".join(f"{key}=={versions[key]}\n" for key in sorted(versions))
    (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
