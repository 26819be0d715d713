"""`evenhand monitor review`: a blind page on which people look at what a collection held back."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def review(
    collected: Annotated[Path, typer.Option(help="What `evenhand collect` wrote.")] = Path("data/collected"),
    out: Annotated[Path, typer.Option(help="File of votes, appended to; it holds the texts.")] = Path("review.jsonl"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8124,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the held pairs on loopback, two replies in random order; Ctrl-C ends it. Then `evenhand collect ... --reviewed`.

    Example: evenhand monitor review --collected data/collected --out review.jsonl
    """
    import uvicorn

    from evenhand.evaluation.vote_app import vote_app
    from evenhand.service.flywheel.review import ballot_of, released_by
    from evenhand.service.flywheel.shelf import Shelf

    shelf = Shelf.at(collected)
    ballot = ballot_of(shelf, out)
    output = Output(as_json, quiet)
    output.say(f"{len(ballot.questions)} held pairs at http://127.0.0.1:{port}/ ; votes go to {out}; Ctrl-C ends")
    uvicorn.run(vote_app(ballot), host="127.0.0.1", port=port, log_level="warning", access_log=False)
    released = len(released_by(out, shelf)) if out.exists() else 0
    found = {"votes": str(out), "held": len(ballot.questions), "released": released}
    output.result(found, f"{released} of {len(ballot.questions)} held pairs are released by `--reviewed {out}`")
