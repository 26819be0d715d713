"""Pages as one HTML text: a template of the `page` folder with the house style in it, all text from outside escaped."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "page"


def page(template: str, **values: Any) -> str:
    """The page that a template makes of `values`; raises jinja2's error for a value that it misses."""
    return _environment().get_template(template).render(style=_style(), **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> Markup:
    return Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))  # ours, not the user's
