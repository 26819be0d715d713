"""A shipped folder on the hub, uploaded only when asked."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from evenhand.errors import UserError


def push_folder(folder: Path, repository: str) -> str:
    """Upload `folder` to a private repository and return its address; raises UserError where the hub refuses."""
    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="evenhand export")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{folder} is written, but {repository} could not be uploaded to ({reason}); log in with `hf auth login` where "
            "there is a network, then `hf upload`."
        ) from error
    return address
