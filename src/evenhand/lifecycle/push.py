"""A shipped folder on the hub, uploaded only when asked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from evenhand.errors import UserError

Result = TypeVar("Result")

_WAITS = (1.0, 2.0, 4.0)  # seconds before another try
_BUSY = (408, 429, 500, 502, 503, 504)


def require_pushable(repository: str) -> None:
    """Raise UserError, before anything is computed, where an upload to `repository` cannot succeed."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"--push {repository}: that is no repository of a hub ({_line(error)}); give one such as team/harbor."
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push needs a network, and HF_HUB_OFFLINE forbids it; unset it, or export without --push.")
    if get_token() is None:
        raise UserError("--push needs a token that may write; log in with `hf auth login`, or set HF_TOKEN.")


def push_folder(
    folder: Path, repository: str, say: Callable[[str], None], wait: Callable[[float], object] = time.sleep
) -> str:
    """Upload `folder` in one commit to a private repository, which is made where it is missing, and return its address.

    What the repository held and the folder does not is taken out by that commit. A hub that is busy or away is asked again
    up to three times. Raises UserError where it refuses, and for a repository that is public.
    """
    api = HfApi()

    def patiently(ask: Callable[[], Result]) -> Result:
        for seconds in _WAITS:
            try:
                return ask()
            except Exception as error:  # the client raises what its own libraries do
                if not _may_pass(error):
                    raise
                say(f"{api.endpoint} is busy or away ({_line(error)}); trying again in {seconds:g} s")
                wait(seconds)
        return ask()

    try:
        address = str(patiently(lambda: api.create_repo(repository, private=True, exist_ok=True)))
        if not patiently(lambda: api.model_info(repository)).private:
            raise UserError(f"{repository} is public; make it private, or choose another")
        patiently(
            lambda: api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="evenhand export", delete_patterns="*"
            )
        )
    except Exception as error:
        raise UserError(
            f"{folder} is written, but {repository} could not be uploaded to ({_line(error)}); when that is mended, "
            f"`hf upload {repository} {folder} . --private` does it."
        ) from error
    return address


def _may_pass(error: BaseException) -> bool:
    """Whether another try may do: the server was busy, or not reached."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in _BUSY
    if error.__cause__ is not None:
        return _may_pass(error.__cause__)
    return isinstance(error, OSError) or any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _line(error: BaseException) -> str:
    """What the error says in a line: the server's own words where there are any, and what lies behind a RuntimeError."""
    response, told = getattr(error, "response", None), getattr(error, "server_message", None)
    if response is not None:
        return f"it answered {response.status_code}" + (f": {told}" if told else "")
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{said} {_line(error.__cause__)}" if isinstance(error, RuntimeError) and error.__cause__ else said
