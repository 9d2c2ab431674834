"""Candidates near a segmenter's own masks as files, the pairs of them that are compared, and answers of a simulated annotator.

masks.yaml      the request
masks/          candidates, each named by its image's number and its content
images/         copies of the images, for people only, so that the folder holds all that the page shows
items.jsonl     the pairs that are compared; written last, so that a folder with it is whole
pairs.jsonl     the pairs with labels, where a simulated annotator labels
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.data.masks.image_files import read_image, read_mask, write_mask
from exptilt.data.masks.manifest import MaskRow, Refused, read_images
from exptilt.data.masks.mask_set import Palette
from exptilt.data.problems import RowError
from exptilt.disk import write_lines, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.people.image_items import SUFFIXES
from exptilt.policies.segmenters.candidates import CandidateLaw, candidates
from exptilt.policies.segmenters.sam_candidates import SamGenerator, sam_candidates
from exptilt.policies.segmenters.segmenter import Segmenter
from exptilt.policies.segmenters.segmenter_files import channels_of, load_segmenter
from exptilt.rewards.mask_annotator import MaskAnnotator
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import dump
from exptilt.settings.mask_rounds_settings import AnnotatorConfig
from exptilt.settings.mask_settings import MaskRequest

REQUEST, ITEMS, PAIRS = "masks.yaml", "items.jsonl", "pairs.jsonl"
_ALIKE = "candidates that are all alike (images)"


@dataclass(frozen=True)
class WrittenMasks:
    """What was written."""

    manifest: Path
    """Pairs with labels, or items for people."""
    rows: int
    images: int
    left_out: Counter[str] = field(default_factory=Counter)
    """What nobody is asked about, by reason."""


def write_candidates(request: MaskRequest) -> WrittenMasks:
    """Write candidates of every image and the pairs that are compared, with the annotator's labels where there is one.

    A second call writes the same files: draws belong to the image, the round and the seed.

    Args:
        request: which segmenter, images and annotator.

    Raises:
        ConfigError: the folder holds candidates of another request.
        DataError: an image cannot be read, or has no true mask for the annotator.
    """
    folder, left_out = Path(request.output).expanduser(), draw_candidates(request)
    manifest = folder / ITEMS
    if request.annotator is not None:
        manifest = folder / PAIRS
        palette = Palette.of(request.classes, request.ignore, request.foreground)
        write_lines(manifest, simulated_rows(folder, request.annotator, palette, request.seed))
    images = [json.loads(line)["image"] for line in manifest.read_text(encoding="utf-8").splitlines()]
    return WrittenMasks(manifest, len(images), len(set(images)), left_out)


def draw_candidates(request: MaskRequest) -> Counter[str]:
    """Write candidates of every image and the pairs that are compared.

    Returns:
        What nobody is asked about, by reason.

    Raises:
        ConfigError: the folder holds candidates of another request.
        DataError: an image cannot be read, has no true mask for the annotator, or nothing can be compared.
    """
    folder, left_out = Path(request.output).expanduser(), Counter[str]()
    palette = Palette.of(request.classes, request.ignore, request.foreground)
    require_weights(request.annotator, palette)
    segmenter = load_segmenter(request.segmenter, len(palette.names), request.seed)
    sam = None if request.sam is None else SamGenerator.load(request.sam.path, request.sam.revision)
    _require_ours(folder, request)
    items = list(_items(request, folder, palette, (segmenter, sam), left_out))
    if not items:
        raise DataError(
            f"{request.images}: all candidates of an image are alike, so there is nothing to compare; raise law.noise"
        )
    write_lines(folder / ITEMS, items)
    return left_out


def simulated_rows(folder: Path, settings: AnnotatorConfig, palette: Palette, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a manifest in the folder: the answers of the simulated annotator on the items that are there.

    Args:
        folder: with items, each with its true mask.
        settings: of the annotator.
        palette: by which true masks are read.
        seed: of its answers; the answer on an item does not depend on other items.
    """
    annotator = MaskAnnotator(settings.overlap, settings.temperature, settings.flip, settings.weights)
    for line in (folder / ITEMS).read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        random = np.random.default_rng((seed, int(hashlib.sha256(item["id"].encode()).hexdigest()[:15], 16)))
        names = item["masks"]
        size = read_mask(folder / names[0]).shape
        first, second, true = (
            palette.read(path, size) for path in (folder / names[0], folder / names[1], Path(item["target"]))
        )
        is_first = annotator.prefers_first(first, second, true, random)
        chosen, rejected = names if is_first else names[::-1]
        kept = {key: item[key] for key in ("image", "target", "round")}
        yield {**kept, "chosen": chosen, "rejected": rejected, "annotator": "simulated"}


def require_weights(settings: AnnotatorConfig | None, palette: Palette) -> None:
    """Refuse an annotator that weighs other classes than there are.

    Raises:
        ConfigError: it does.
    """
    if settings is not None and settings.weights and len(settings.weights) != len(palette.names) - 1:
        raise ConfigError(
            f"annotator.weights: {len(settings.weights)} of them, and there are {len(palette.names) - 1} classes beside the "
            "background"
        )


def _require_ours(folder: Path, request: MaskRequest) -> None:
    stated, path = dump(replace(request, output="")), folder / REQUEST
    if path.exists() and path.read_text(encoding="utf-8") != stated:
        raise ConfigError(f"{folder}: holds masks of another request; give another output")
    if not path.exists() and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty and holds no masks of `exptilt masks`; give another output")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, stated)


def _items(
    request: MaskRequest,
    folder: Path,
    palette: Palette,
    models: tuple[Segmenter, SamGenerator | None],
    left_out: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Pairs of candidates of every image, drawn without repetition; candidates are written on the way."""
    law, (segmenter, sam) = CandidateLaw(**as_dict(request.law)), models
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
        known = np.ones(image.shape[1:], bool) if true is None else true >= 0
        pairs = [(a, b) for a, b in combinations(range(len(drawn)), 2) if (known & (drawn[a] != drawn[b])).any()]
        if not pairs:
            left_out[_ALIKE] += 1
            continue
        asked = np.random.default_rng((*seed, 1)).permutation(len(pairs))[: request.num_pairs]
        names = _written(folder, number, palette.values(drawn), {at for place in asked for at in pairs[place]})
        about = {"image": _copied(folder, number, row) if request.annotator is None else str(row.image.resolve())}
        about |= {} if row.target is None or request.annotator is None else {"target": str(row.target.resolve())}
        for place in asked:
            a, b = pairs[place]
            name = f"{request.round}:{number:05d}:{a}-{b}"
            yield {"id": name, **about, "masks": [names[a], names[b]], "round": request.round}


def _written(folder: Path, number: int, drawn: Any, which: set[int]) -> dict[int, str]:
    """Write some candidates of an image; names hold the content, so that two comparisons never have the same words."""
    names = {at: f"masks/{number:05d}-{hashlib.sha256(drawn[at].tobytes()).hexdigest()[:12]}.png" for at in which}
    for at, name in names.items():
        write_mask(folder / name, drawn[at])
    return names


def _copied(folder: Path, number: int, row: MaskRow) -> str:
    """A copy of an image for the page, which shows what lies in the folder of the items and nothing else."""
    if row.image.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{row.where}: {row.image}: people compare pictures in a browser; write it as PNG, JPEG or TIFF"
        )
    content = row.image.read_bytes()
    name = f"images/{number:05d}-{hashlib.sha256(content).hexdigest()[:12]}{row.image.suffix.lower()}"
    (folder / "images").mkdir(exist_ok=True)
    write_whole(folder / name, content)
    return name


def _images(request: MaskRequest) -> Iterator[MaskRow]:
    for row in read_images(request.images, request.limit):
        if isinstance(row, Refused):
            raise DataError(f"{row.where}: {row.error.detail}")
        if request.annotator is not None and row.target is None:
            raise DataError(f"{row.where}: no true mask (`target`), which a simulated annotator compares with")
        yield row
