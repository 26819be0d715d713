"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Put one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]
Kind = Annotated[str | None, typer.Option(help="Force the kind of row instead of recognising it.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Longest side in tokens, prompt included; longer rows are refused. Left out: the run's own, else 2048."
    ),
]
TemplateName = Annotated[
    str | None, typer.Option("--template", help="chat, or plain for base models. Left out: the run's own, else chat.")
]
Judge = Annotated[
    str | None,
    typer.Option("--judge", help="Who judges: the address of an OpenAI-compatible endpoint, or a reward model."),
]
JudgeModel = Annotated[
    str, typer.Option("--judge-model", help="The endpoint's model; its key is read from EVENHAND_JUDGE_KEY.")
]
JudgeLog = Annotated[
    Path, typer.Option("--judge-log", help="File of all that an endpoint was asked and said; a second run goes on.")
]
Labelled = Annotated[
    str | None,
    typer.Option(help="Pairs that people judged: the judge is measured on them first, and stops at chance."),
]
JUDGE_LOG = Path("judge.jsonl")
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
