"""`evenhand export`: a run's model as a folder to ship, with proof."""

from pathlib import Path
from typing import Annotated

import typer

from evenhand.cli.options import Json, Quiet
from evenhand.cli.output import Output


def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    merge: Annotated[bool, typer.Option("--merge", help="Whole weights instead of the adapter.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="One GGUF file in F16, for llama.cpp.")] = False,
    dtype: Annotated[
        str,
        typer.Option(
            help="Precision of whole weights, and of the base an adapter is proved on: auto (the base's own), float32, "
            "bfloat16, float16."
        ),
    ] = "auto",
    key: Annotated[Path | None, typer.Option(help="Private key (PEM, elliptic curve) to sign with.")] = None,
    serving: Annotated[
        Path | None, typer.Option(help="Model folder of a server; a difference to its template or tokens is refused.")
    ] = None,
    push: Annotated[str | None, typer.Option(help="Hub repository to upload to, such as team/harbor.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write adapter, merged weights or GGUF with manifest, card and bill of materials; load it again and compare.

    Example: evenhand export runs/harbor --out ship/harbor --merge
    """
    from evenhand.lifecycle.bundle import Wanted, export_run
    from evenhand.lifecycle.push import push_folder, require_pushable

    output = Output(as_json, quiet)
    if push is not None:
        require_pushable(push)
    shipped = export_run(run, out, Wanted(merge, gguf, dtype, key, serving), output.say)
    found = shipped.json()
    words = [f"{out}: {', '.join(shipped.kinds)}, proved; manifest {shipped.manifest_sha256[:16]}"]
    if push is not None:
        found["pushed"] = push_folder(out, push, output.say)
        words.append(f"uploaded to {found['pushed']}")
    output.result(found, "\n".join(words))
