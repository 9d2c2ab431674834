"""Checks of images and masks: every fault with its file and row, counted, and decided by a setting."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from exptilt.data.masks.image_files import read_image
from exptilt.data.masks.manifest import MaskRow, Refused, read_held_out, read_rows
from exptilt.data.masks.mask_set import MaskSet, Palette, Pixels, read_pixels
from exptilt.data.problems import MAX_EXAMPLES, RowError
from exptilt.errors import DataError
from exptilt.kinds import PROMPT, Kind
from exptilt.labels import Desirable, Preferred
from exptilt.run_folder.data_record import DataReport, Finding, SplitReport
from exptilt.settings.mask_settings import MaskData

_SETTINGS = {
    "identical": "on_identical",
    "duplicate": "on_duplicate",
    "conflict": "on_conflict",
}
"""The key of `data` that decides about a problem; all others are decided by on_invalid."""
_FIXES = {
    "identical": "remove the pair, which says nothing",
    "duplicate": "remove the copies, or give the row a weight",
    "conflict": "settle the label, or set data.on_conflict=keep",
    "far": "show people candidates near the model's own mask: `exptilt masks` makes them",
    "leak": "hold the image out, or train on it",
}


@dataclass
class _Account:
    """Problems of one split, with the first rows of each."""

    messages: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, code: str, where: str, message: str) -> None:
        self.counts[code] += 1
        self.messages.setdefault(code, []).append(message)
        self.rows.setdefault(code, []).append(where)

    def findings(self, data: MaskData) -> list[Finding]:
        found = []
        for code, count in self.counts.items():
            setting = _SETTINGS.get(code, "on_invalid")
            decision = "warning" if code in ("far", "leak") else getattr(data, setting)
            severity = {"error": "error", "drop": "info", "keep": "info", "warning": "warning"}[decision]
            fix = _FIXES.get(code, "repair the file")
            found.append(
                Finding(
                    code=code,
                    severity=severity,
                    count=count,
                    examples=tuple(self.rows[code][:MAX_EXAMPLES]),
                    message=f"{self.rows[code][0]}: {self.messages[code][0]}",
                    fix=fix if severity == "warning" or decision == "keep" else f"{fix}, or set data.{setting}=drop",
                )
            )
        return found


@dataclass(frozen=True)
class PreparedMasks:
    """Checked rows to train on and to measure on, and the account of them."""

    train: MaskSet
    test: MaskSet
    report: DataReport


def prepare_masks(data: MaskData, kind: Kind, channels: int) -> PreparedMasks:
    """Read and check all rows; what is wrong with them is in the report, nothing is left out in silence.

    Args:
        data: where rows are and what to do with those that cannot be used.
        kind: what the loss is called with.
        channels: channels that images are read with.

    Raises:
        DataError: there is nothing to read.
    """
    palette = Palette.of(data.classes, data.ignore, data.foreground)
    train, account, read = _checked(read_rows(data.train, kind, data.limit), data, palette, channels)
    findings = account.findings(data)
    splits: dict[str, Any] = {}
    if data.test is not None:
        test, of_test, read_test = _checked(read_held_out(data.test, kind), data, palette, channels)
        _note_leaks(train, test, findings)
        findings += of_test.findings(data)
        splits["test"] = _split(data.test, read_test, of_test, test)
    else:
        train, test = _held_out(train, data.test_fraction)
        if len(test):
            splits["test"] = SplitReport(source=data.train, format="masks", kept=len(test))
    splits["train"] = _split(data.train, read, account, train)
    report = DataReport(kind=kind.name, findings=tuple(findings), **splits)
    return PreparedMasks(train, test, report)


def prepare_held_out(data: MaskData, kind: Kind, channels: int) -> MaskSet:
    """The rows of `data.test` alone.

    Raises:
        DataError: there are none, or one cannot be used.
    """
    if data.test is None:
        raise DataError("data.test is missing")
    palette = Palette.of(data.classes, data.ignore, data.foreground)
    test, account, _ = _checked(read_held_out(data.test, kind), data, palette, channels)
    errors = [finding for finding in account.findings(data) if finding.severity == "error"]
    if errors:
        raise DataError("\n".join(str(finding) for finding in errors))
    return test


def prepare_images(
    images: Sequence[MaskRow | Refused], data: MaskData, channels: int, *, with_targets: bool
) -> DataReport:
    """Read every image, and every true mask beside it, that candidates will be made of.

    Args:
        images: as a manifest or a folder names them.
        data: how true masks are read.
        channels: that images are read with.
        with_targets: whether each needs a true mask, for a simulated annotator.
    """
    palette, account, good = Palette.of(data.classes, data.ignore, data.foreground), _Account(), 0
    for row in images:
        try:
            if isinstance(row, Refused):
                raise row.error
            size = read_image(row.image, channels).shape[1:]
            if row.target is not None:
                palette.read(row.target, size)
            elif with_targets:
                raise RowError("missing_column", "no true mask (`target`), which a simulated annotator compares with")
        except RowError as error:
            account.note(error.code, row.where, error.detail)
            continue
        good += 1
    findings = tuple(
        finding.updated(fix="repair the row") for finding in account.findings(replace(data, on_invalid="error"))
    )
    train = SplitReport(format="images", rows=len(images), rows_left_out=dict(account.counts), examples=good, kept=good)
    return DataReport(kind=PROMPT.name, findings=findings, train=train)


def refused_masks(prepared: PreparedMasks) -> PreparedMasks:
    """The same rows.

    Raises:
        DataError: some have errors, or nothing is left to train on.
    """
    errors = prepared.report.errors
    if errors:
        raise DataError("\n".join(str(finding) for finding in errors))
    if not len(prepared.train):
        raise DataError("data: nothing is left to train on")
    return prepared


def _checked(
    rows: Sequence[MaskRow | Refused], data: MaskData, palette: Palette, channels: int
) -> tuple[MaskSet, _Account, int]:
    account = _Account()
    good = MaskSet([], palette, channels)
    seen: dict[str, str] = {}
    for row in rows:
        try:
            if isinstance(row, Refused):
                raise row.error
            pixels = read_pixels(row, palette, channels)
            _require_pixels(row, pixels)
        except RowError as error:
            account.note(error.code, row.where, error.detail)
            continue
        if _is_kept(row, pixels, seen, account, data):
            good.rows.append(row)
    return good, account, len(rows)


def _require_pixels(row: MaskRow, pixels: Pixels) -> None:
    if not pixels.valid.any():
        raise RowError("bad_value", f"{row.masks[0]}: every pixel is ignored")
    if len(row.masks) > 1 and not pixels.differing.any():
        raise RowError("identical", f"{' and '.join(path.name for path in row.masks)} differ in no counted pixel")


def _is_kept(row: MaskRow, pixels: Pixels, seen: dict[str, str], account: _Account, data: MaskData) -> bool:
    """Note what is known only from pixels, and decide whether the row is used."""
    digest, label = pixels.digest, repr(row.label)
    turned = Pixels(pixels.image, pixels.masks[::-1], None).digest
    if seen.get(digest) == label:
        account.note("duplicate", row.where, "the row repeats an earlier one")
        return False
    opposite = isinstance(row.label, Desirable) and digest in seen
    if opposite or (isinstance(row.label, Preferred) and len(row.masks) == 2 and turned in seen):
        account.note("conflict", row.where, "an earlier row has the opposite label")
        if data.on_conflict == "drop":
            return False
    seen[digest] = label
    share = float(pixels.differing.sum() / pixels.valid.sum())
    if len(row.masks) > 1 and share > data.max_difference:
        account.note(
            "far",
            row.where,
            f"the masks differ in {share:.0%} of the pixels (data.max_difference={data.max_difference:g})",
        )
    return True


def _image_of(rows: MaskSet, index: int) -> str:
    return hashlib.blake2b(rows.pixels(index).image.tobytes(), digest_size=8).hexdigest()


def _held_out(rows: MaskSet, fraction: float) -> tuple[MaskSet, MaskSet]:
    """Split by a hash of the image, so that all rows of an image are on one side."""
    if not fraction:
        return rows, rows.some([])
    limit = int(fraction * 2**32)
    held = [int(_image_of(rows, at)[:8], 16) < limit for at in range(len(rows))]
    return rows.some([at for at, out in enumerate(held) if not out]), rows.some(
        [at for at, out in enumerate(held) if out]
    )


def _note_leaks(train: MaskSet, test: MaskSet, findings: list[Finding]) -> None:
    known = {_image_of(train, at) for at in range(len(train))}
    leaks = [test.rows[at].where for at in range(len(test)) if _image_of(test, at) in known]
    if leaks:
        message = f"{leaks[0]}: the image is among the training images as well"
        findings.append(
            Finding(
                code="leak",
                severity="warning",
                count=len(leaks),
                examples=tuple(leaks[:MAX_EXAMPLES]),
                message=message,
                fix=_FIXES["leak"],
            )
        )


def _split(source: str, read: int, account: _Account, kept: Sequence[Any]) -> SplitReport:
    left_out = {code: count for code, count in account.counts.items() if code not in ("far", "leak")}
    return SplitReport(
        source=source, format="masks", rows=read, rows_left_out=left_out, examples=len(kept), kept=len(kept)
    )
