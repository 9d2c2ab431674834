"""Images of blobs with pairs of masks as files, for runs on masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from exptilt.data.masks.image_files import write_mask
from exptilt.testbed.blobs import blobs, thickened


def write_pairs(folder: Path, name: str, count: int, seed: int, size: int = 16) -> list[dict[str, Any]]:
    """Images of blobs; the true mask is chosen, a mask that is a pixel too thick is rejected."""
    images, masks = blobs(count, size, seed)
    wrong = thickened(masks, 1)
    rows = []
    for at in range(count):
        stem = f"{name}{at}"
        Image.fromarray(images[at]).save(folder / f"{stem}.png")
        write_mask(folder / f"{stem}-true.png", masks[at])
        write_mask(folder / f"{stem}-wrong.png", wrong[at])
        row = {"image": f"{stem}.png", "chosen": f"{stem}-true.png", "rejected": f"{stem}-wrong.png"}
        rows.append({**row, "target": row["chosen"]})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
