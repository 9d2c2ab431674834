"""PlannedRows of a planned run: their number and lengths, from the cache or from a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from exptilt.data.cache import DataCache
from exptilt.data.groups import Group
from exptilt.data.prepared import prepare
from exptilt.errors import DataError
from exptilt.kinds import Kind
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DataConfig

_SAMPLE = 2000
"""PlannedRows that are tokenised where the cache has none."""


@dataclass(frozen=True, kw_only=True)
class PlannedRows:
    """Training and test rows, all or a sample, and their full numbers."""

    train: Sequence[Group]
    test: Sequence[Group]
    num_train: int
    num_test: int
    refusal: str = ""
    """Why a run would refuse these data."""

    @property
    def sampled(self) -> bool:
        """Whether `train` is only a sample."""
        return len(self.train) < self.num_train


def rows_of(settings: DataConfig, tokenizer: Any, kind: Kind, context: int | None) -> PlannedRows:
    """All rows if they are in the cache; else the first rows tokenised, and the full number from checks on text.

    Raises:
        DataError: there is no row to look at.
    """
    cached = DataCache.of(settings, tokenizer, kind.name, context)
    if cached is not None and (found := cached.read()) is not None:
        return PlannedRows(train=found.train, test=found.test, num_train=len(found.train), num_test=len(found.test))
    limit = min(_SAMPLE, settings.limit or _SAMPLE)
    part = prepare(replace(settings, limit=limit), tokenizer, kind, context, strict=False)
    report = part.report
    refuse_nothing(settings, report)
    counts = (len(part.train), len(part.test))
    if (report.train.rows or 0) >= limit and limit != settings.limit:
        whole = prepare(settings, None, kind, context, strict=False).report
        counts = (whole.train.kept or 0, (whole.test.kept or 0) if whole.test else 0)
    return PlannedRows(
        train=part.train,
        test=part.test,
        num_train=max(counts[0], len(part.train)),
        num_test=max(counts[1], len(part.test)),
        refusal=report.refusal or "",
    )


def refuse_nothing(settings: DataConfig, report: DataReport) -> None:
    """Refuse rows of which none can be used.

    Raises:
        DataError: saying what they are, where that can be told.
    """
    if report.train.kept:
        return
    if report.train.rows_left_out.get("prompt_only"):
        raise DataError(
            f"{settings.named}: its rows are prompts alone, so there is nothing to train on and to plan; draw completions of "
            "them with `exptilt sample` first"
        )
    raise DataError(f"{settings.named}: no row can be used, so there is nothing to plan; see `exptilt doctor`")
