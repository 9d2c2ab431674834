"""Whether the Hugging Face hub can be reached, asked once and without the minute of retries its client would take."""

from __future__ import annotations

import sys
from functools import cache

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
