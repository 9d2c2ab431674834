"""What a check of a part of your own found."""

from __future__ import annotations

from typing import NamedTuple


class CheckFinding(NamedTuple):
    """What one check found."""

    check: str
    fault: str
    """What is wrong, in words; empty where nothing is."""
