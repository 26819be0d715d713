"""Where a command may write: looked at before any work, so that hours of it are not lost on a name, nor the data itself."""

import os
from collections.abc import Iterable
from pathlib import Path

from evenhand.errors import UserError
from evenhand.files import existing_parent


def require_file(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse a file that is one of `inputs`, or that cannot be written. Raises UserError."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    for given in inputs:
        if given is not None and path.exists() and Path(given).exists() and path.samefile(given):
            raise UserError(f"{path} is read by this command and would be overwritten; choose another name.")
    blocking = next((above for above in path.absolute().parents if above.is_file()), None)
    if blocking is not None:
        raise UserError(f"{path} cannot be written, since {blocking} is a file; choose another name.")
    parent = existing_parent(path.absolute().parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written, since {parent} forbids it; choose another name.")


def require_page(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """The same for an HTML page with its JSON beside it. Raises UserError."""
    beside = path.with_suffix(".json")
    if path == beside:
        raise UserError(
            f"{path} is to be a page, and its JSON stands beside it as {beside}; give a name that ends in .html."
        )
    inputs = tuple(inputs)
    for own in (path, beside):
        require_file(own, inputs)
