"""Candidates near a segmenter's own masks, written as files: for people, or labelled by a simulated annotator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.data.masks.image_files import read_image, write_mask
from exptilt.data.masks.manifest import MaskRow, Refused, read_images
from exptilt.data.masks.mask_set import Palette
from exptilt.data.problems import RowError
from exptilt.disk import write_lines, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.policies.segmenters.candidates import CandidateLaw, candidates
from exptilt.policies.segmenters.sam_candidates import SamGenerator, sam_candidates
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import channels_of, load_segmenter
from exptilt.rewards.mask_annotator import MaskAnnotator
from exptilt.settings.load import dump
from exptilt.settings.mask_settings import AnnotatorConfig, MaskRequest

PAIRS, ITEMS = "pairs.jsonl", "items.jsonl"


@dataclass(frozen=True)
class WrittenMasks:
    """What was written."""

    manifest: Path
    """Pairs with labels, or items for people."""
    rows: int
    images: int


def write_candidates(request: MaskRequest) -> WrittenMasks:
    """Write candidates of every image, and the manifest: pairs with labels, or items for people.

    A second call writes the same files: draws belong to the image, the round and the seed.

    Args:
        request: which segmenter, images and annotator.

    Raises:
        ConfigError: the folder holds candidates of another request.
        DataError: an image cannot be read, or has no true mask for the annotator.
    """
    folder = Path(request.output).expanduser()
    palette = Palette.of(request.classes, request.ignore, request.foreground)
    segmenter = load_segmenter(request.segmenter, len(palette.names), request.seed)
    _require_ours(folder, request)
    rows = list(_written(request, folder, palette, segmenter))
    manifest = folder / (ITEMS if request.annotator is None else PAIRS)
    write_lines(manifest, rows)
    return WrittenMasks(manifest, len(rows), len({row["image"] for row in rows}))


def _require_ours(folder: Path, request: MaskRequest) -> None:
    stated, path = dump(replace(request, output="")), folder / "masks.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != stated:
        raise ConfigError(f"{folder}: holds masks of another request; give another output")
    if not path.exists() and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty and holds no masks of `exptilt masks`; give another output")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, stated)


def _written(request: MaskRequest, folder: Path, palette: Palette, segmenter: Segmenter) -> Iterator[dict[str, Any]]:
    law = CandidateLaw(request.bias, request.noise, request.smoothness, dropout=request.dropout)
    channels = request.channels or channels_of(segmenter)
    sam = None if request.sam is None else SamGenerator.load(request.sam.path, request.sam.revision)
    for number, row in enumerate(_images(request)):
        try:
            image = read_image(row.image, channels)
            true = None if row.target is None else palette.read(row.target, image.shape[1:])
        except RowError as error:
            raise DataError(f"{row.where}: {error.detail}") from None
        seed = (request.seed, request.round, number)
        drawn = candidates(segmenter, image, 1 if sam else request.num_masks, law, seed)
        if sam is not None:
            drawn = sam_candidates(sam, image, drawn[0], request.num_masks, seed, true)
        paths = [folder / "masks" / f"{number:05d}-{at}.png" for at in range(len(drawn))]
        for path, mask in zip(paths, drawn, strict=True):
            write_mask(path, mask)
        names = [str(path.relative_to(folder)) for path in paths]
        common = {"image": str(row.image.resolve())} | (
            {} if row.target is None else {"target": str(row.target.resolve())}
        )
        if request.annotator is None or true is None:
            yield {**common, "masks": names, "round": request.round}
        else:
            yield from _labelled(request.annotator, request, names, drawn, true, seed, common)


def _labelled(
    settings: AnnotatorConfig,
    request: MaskRequest,
    names: list[str],
    drawn: Any,
    true: Any,
    seed: tuple[int, ...],
    common: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Answers of the simulated annotator on some pairs of masks, drawn without repetition."""
    annotator = MaskAnnotator(settings.overlap, settings.temperature, settings.flip, settings.weights)
    random = np.random.default_rng((*seed, 1))
    pairs = list(combinations(range(len(drawn)), 2))
    valid = (true >= 0)[None]
    for at in random.permutation(len(pairs))[: request.num_pairs]:
        a, b = pairs[at]
        if not (valid & (drawn[a] != drawn[b])).any():
            continue
        first = annotator.prefers_first(drawn[a], drawn[b], true, random)
        chosen, rejected = (a, b) if first else (b, a)
        yield {
            **common,
            "chosen": names[chosen],
            "rejected": names[rejected],
            "annotator": "simulated",
            "round": request.round,
        }


def _images(request: MaskRequest) -> Iterator[MaskRow]:
    for row in read_images(request.images, request.limit):
        if isinstance(row, Refused):
            raise DataError(f"{row.where}: {row.error.detail}")
        if request.annotator is not None and row.target is None:
            raise DataError(f"{row.where}: no true mask (`target`), which a simulated annotator compares with")
        yield row
