"""Options of the commands that measure texts: in how many processes, on which machines, and with which tokenizer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Workers = Annotated[
    int, typer.Option(min=0, help="Processes that measure texts; 0: as many as pay, at most one a core.")
]
Ray = Annotated[bool, typer.Option("--ray", help="Measure on Ray: the cluster at RAY_ADDRESS, else one started here.")]
Tokenizer = Annotated[str | None, typer.Option(help="Model whose tokenizer counts tokens: folder, hub id or builtin.")]

_WORTH_BYTES = 40_000_000  # smaller files are done before other processes have started


@contextmanager
def measuring(data: str, count: int, on_ray: bool) -> Iterator[Any]:
    """The map that measures: here, in `count` processes, or on Ray."""
    from evenhand.data.workers import cores, ray_workers, workers

    path = Path(data)
    large = path.is_dir() or (path.is_file() and path.stat().st_size > _WORTH_BYTES)
    with ray_workers() if on_ray else workers(count or (cores() if large else 1)) as run:
        yield run


def encoder(source: str | None) -> Callable[[str], Sequence[int]] | None:
    """A function from a text to its tokens, without special ones; None where no tokenizer was named."""
    if source is None:
        return None
    from evenhand.model.load import find_source, load_tokenizer

    tokenizer = load_tokenizer(find_source(source))

    def encode(text: str) -> Sequence[int]:
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return tokens

    return encode
