"""Pages as one HTML text: a template of the `page` folder with the house style in it, all text from outside escaped."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "page"


def page(template: str, folder: Path = _FOLDER, **values: Any) -> str:
    """The page that a template of `folder` makes of `values`; raises jinja2's error for a value that it misses."""
    return _environment(folder).get_template(template).render(style=style(), **values)


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def style() -> Markup:
    """The house style."""
    return Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))  # ours, not the user's
