"""Data sets on the Hugging Face hub; one quick request tells whether it can be reached, without the client's minute of retries."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from exptilt.errors import DataError
from exptilt.wording import in_one_line

_SECONDS = 5.0
"""How long to wait for an answer, whatever it is."""
NOT_REACHED = "the hub cannot be reached, nor is it in the hub's cache"
"""What to say of something that the offline mode did not find."""


@cache
def is_reachable() -> bool:
    """Ask the hub (or the mirror of HF_ENDPOINT, through the proxy the client uses) for any answer, once a process.

    Where none comes, the hub's client is put into its offline mode for the rest of the process, so that what is in its
    cache is used and what is not there is refused at once.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # the client's library and its errors have changed from version to version
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        return False
    return True


def is_id(source: str) -> bool:
    """Whether a source has the form of a hub id, `owner/name`."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


@cache
def data_set(source: str, split: str, subset: str | None, revision: str | None) -> Any:
    """A data set of the hub, loaded once per process, so that every reader sees the same content.

    Raises:
        DataError: if neither the hub nor its cache has it.
    """
    import datasets

    reached = is_reachable()
    try:
        return datasets.load_dataset(source, subset, split=split, revision=revision)
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own
        why = f"the hub gives no data set: {in_one_line(error)}" if reached else NOT_REACHED
        raise DataError(f"{source}: no such file here, and {why}") from None


def files_of(loaded: Any) -> tuple[Path, ...]:
    """Local files that hold the rows of a data set, in the hub client's cache; empty where the rows are only in memory."""
    return tuple(Path(file["filename"]) for file in getattr(loaded, "cache_files", ()))
