"""The checks on text that a run makes of its rows, without a tokenizer; what has passed them once is not read for them again."""

from __future__ import annotations

from pathlib import Path

from exptilt.data.cache import LEAST_GROUPS, content_key
from exptilt.data.prepared import prepare
from exptilt.disk import cache_folder
from exptilt.kinds import Kind
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DataConfig


def check_texts(config: DataConfig, kind: Kind) -> DataReport | None:
    """Read all rows, and refuse what a run would refuse of them as text.

    Args:
        config: where the data is and what happens to wrong rows.
        kind: of the objective.

    Returns:
        The report; None where equal rows passed with equal settings before.

    Raises:
        DataError: if a source cannot be read, or rows are wrong and no setting says what to do, or nothing is left.
    """
    key = content_key(config, ["text", kind.name])
    passed = None if key is None else cache_folder("checked") / key
    if passed is not None and passed.exists():
        return None
    report = prepare(config, None, kind).report
    if passed is not None and (report.train.kept or 0) >= LEAST_GROUPS:
        _remember(passed)
    return report


def _remember(passed: Path) -> None:
    try:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()
    except OSError:
        return  # the rows are read once more next time
