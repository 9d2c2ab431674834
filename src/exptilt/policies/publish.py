"""Upload of a model folder to the Hugging Face hub, only on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exptilt.errors import ModelError
from exptilt.policies.adapters import base_of, is_adapter
from exptilt.wording import in_one_line


def publish(folder: Path, repository: str, *, private: bool = False, api: Any = None) -> str:
    """Upload a model folder to the hub; makes the repository if there is none. Returns its address.

    Args:
        folder: the folder to upload, all of it.
        repository: `owner/name`.
        private: whether a new repository is private.
        api: a `huggingface_hub.HfApi`; default, one with the token of `hf auth login`.

    Raises:
        ModelError: in one line: what the hub refused, or an adapter whose base nobody else has.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if is_adapter(folder) and Path(base_of(folder)).expanduser().is_dir():
        raise ModelError(
            f"{folder}: is an adapter whose base is a folder of this machine, {base_of(folder)}; add --merge to publish both"
        )
    api = api or HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=str(getattr(address, "repo_id", repository)),
            folder_path=str(folder),
            commit_message="exptilt export",
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{repository}: the hub took nothing ({in_one_line(error)}); `hf auth login` with a token "
            "that may write, and look at the name"
        ) from error
    return str(address)
