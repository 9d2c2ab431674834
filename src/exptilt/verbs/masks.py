"""`exptilt masks`: candidates near a segmenter's own masks, for people or labelled by a simulated annotator."""

from __future__ import annotations

from exptilt.runs.mask_candidates import write_candidates
from exptilt.settings.mask_settings import MaskRequest
from exptilt.wording import counted


def masks(request: MaskRequest) -> None:
    """Write candidates of every image, and say what to do with them.

    Args:
        request: which segmenter, images and annotator.

    Raises:
        ConfigError: the folder holds candidates of another request.
        DataError: an image cannot be read, or has no true mask for the annotator.
    """
    written = write_candidates(request)
    if request.annotator is None:
        rows, then = counted(written.rows, "item to compare", "items to compare"), f"exptilt label {written.manifest}"
    else:
        rows, then = counted(written.rows, "pair"), f"exptilt train RECIPE data.train={written.manifest}"
    print(f"{rows} of {counted(written.images, 'image')}: {written.manifest}; next: {then}")
