"""SAM as a generator of candidate masks: each click gives three masks, of the part, the whole and what lies between.

SAM is no policy here, since none of its pixels has a distribution of its own; a segmenter is trained on the preferences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from exptilt.errors import ModelError
from exptilt.policies.segmenters.mask_scorer import as_floats
from exptilt.wording import in_one_line


@dataclass(frozen=True)
class SamGenerator:
    """A SAM of transformers with its image processor (that of Pillow: no torchvision)."""

    model: Any
    processor: Any

    @classmethod
    def load(cls, path: str, revision: str | None = None) -> SamGenerator:
        """Load a folder or hub id.

        Raises:
            ModelError: it cannot be loaded, or is no SAM.
        """
        from transformers import AutoConfig, SamModel
        from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

        try:
            config = AutoConfig.from_pretrained(path, revision=revision)
            if config.model_type != "sam":
                raise ModelError(
                    f"sam.path: {path}: is a {config.model_type}, and masks are made by a model of type sam"
                )
            model: Any = SamModel.from_pretrained(path, revision=revision or "main")
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(f"sam.path: {path}: cannot be loaded ({in_one_line(error)})") from None
        model.train(False)
        side = int(config.vision_config.image_size)
        square = {"height": side, "width": side}
        return cls(model, SamImageProcessorPil(size={"longest_edge": side}, pad_size=square))

    def masks(self, image: Any, clicks: Any) -> Iterator[Any]:
        """Masks of clicks: three (H, W) int32 of 0 and 1 for each, in the model's order.

        Args:
            image: (C, H, W), grey or in colours.
            clicks: (n, 2) pixels as (x, y).
        """
        colours = as_floats(image) if len(image) == 3 else np.repeat(as_floats(image), 3, 0)
        pixels = np.moveaxis((255 * np.clip(colours, 0, 1)).round().astype(np.uint8), 0, -1)
        given = self.processor(pixels, return_tensors="pt")
        height, width = given["reshaped_input_sizes"][0].tolist()
        scale = torch.tensor([width / pixels.shape[1], height / pixels.shape[0]])
        points = torch.from_numpy(np.asarray(clicks, dtype=np.float32)) * scale
        with torch.no_grad():
            output = self.model(
                pixel_values=given["pixel_values"].to(self.model.device),
                input_points=points[None, :, None].to(self.model.device),
                multimask_output=True,
            )
            logits = self.processor.post_process_masks(
                output.pred_masks.cpu(), given["original_sizes"], given["reshaped_input_sizes"], binarize=False
            )[0]
        for of_click in logits:
            yield from (of_click > 0).to(torch.int32).numpy()


def sam_candidates(
    generator: SamGenerator, image: Any, own: Any, count: int, seed: tuple[int, ...], target: Any | None = None
) -> Any:
    """Masks of an image: the segmenter's own first, then SAM's, all different.

    Clicks fall on the true mask's foreground where there is one, as a person would click, else anywhere.

    Args:
        generator: the SAM.
        image: (C, H, W).
        own: (H, W) the segmenter's mask.
        count: number of masks; fewer come back where SAM repeats itself.
        seed: of the clicks.
        target: (H, W) the true mask, or None.

    Returns:
        (n, H, W) int32 of 0 and 1.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.nonzero(np.ones(own.shape) if target is None or not (target > 0).any() else target > 0)
    masks = [np.asarray(own, dtype=np.int32)]
    for _ in range(count):
        at = int(random.integers(len(rows)))
        for mask in generator.masks(image, [[columns[at], rows[at]]]):
            if len(masks) < count and not any(np.array_equal(mask, other) for other in masks):
                masks.append(mask)
        if len(masks) == count:
            break
    return np.stack(masks)
