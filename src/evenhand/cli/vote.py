"""`evenhand vote`: a blind side-by-side page on which people say which reply is better."""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output
from evenhand.errors import UserError


def vote(
    first: Annotated[Path, typer.Argument(help="Run folder whose replies are answer a.")],
    second: Annotated[Path, typer.Argument(help="Run folder whose replies are answer b.")],
    out: Annotated[Path, typer.Option(help="File of votes, appended to; a second start goes on.")] = Path(
        "votes.jsonl"
    ),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8123,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a blind page on loopback: two replies in random order, ties allowed, keys 1, 0 and 2; Ctrl-C ends it.

    Each vote is a judgment with annotator, position and time, which `evenhand curate` and `evenhand compare --votes`
    read.

    Example: evenhand vote runs/dpo runs/simpo --out votes.jsonl
    """
    import uvicorn

    from evenhand.evaluation.ballot import Ballot, questions_of, votes_of
    from evenhand.evaluation.replies import read_replies
    from evenhand.evaluation.vote_app import vote_app

    files = [folder / "rows" / "replies-after.json" for folder in (first, second)]
    for file in files:
        if not file.exists():
            raise UserError(f"{file} is missing: a vote needs two runs that answered prompts (`evaluation.prompts`).")
    ballot = Ballot(questions_of(*(read_replies(file) for file in files)), out)
    output = Output(as_json, quiet)
    server = uvicorn.Server(uvicorn.Config(vote_app(ballot), log_level="warning", access_log=False))
    with _listening(port) as door:
        output.say(f"{len(ballot.questions)} questions at http://127.0.0.1:{port}/ ; votes go to {out}; Ctrl-C ends")
        with suppress(KeyboardInterrupt):  # which is how it ends, after the last request
            server.run(sockets=[door])
    wins = votes_of(out).win_rate if out.exists() else None
    words = (
        f"answer b wins against a: {1 - wins.value:.3f}, n={wins.n}" if wins and wins.value is not None else "no votes"
    )
    output.result({"votes": str(out), "a_wins": wins.json() if wins else None}, words)


def _listening(port: int) -> socket.socket:
    """A socket on loopback; raises UserError where the port cannot be had."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} on 127.0.0.1 cannot be had ({error}); choose another --port.") from error
