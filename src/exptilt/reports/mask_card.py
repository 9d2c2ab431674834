"""The model card of a segmenter: how it is loaded, what was measured beside its start and rivals, and the recipe."""

from __future__ import annotations

from pathlib import Path

from exptilt.disk import write_whole
from exptilt.reports.tables.mask_table import mask_evaluation_of, measure_rows
from exptilt.run_folder.folder import RunFolder

_UNET = """```python
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.settings.mask_settings import SegmenterConfig

segmenter = load_segmenter(SegmenterConfig(path="{name}"), classes={classes})
logps = segmenter.log_probabilities(images)  # (B, C, H, W) floats in [0, 1] -> (B, classes, H, W) nats
```"""
_TRANSFORMERS = """```python
from transformers import AutoModelForSemanticSegmentation

model = AutoModelForSemanticSegmentation.from_pretrained("{name}")
```"""


def write_mask_card(run: RunFolder) -> Path:
    """Write README.md into the folder of a run's segmenter.

    Args:
        run: a finished run.
    """
    found, name = mask_evaluation_of(run), run.path.resolve().name
    is_unet = (run.model / "unet.json").is_file()
    lines = ["---", "tags:", "- image-segmentation", "- exptilt", "---", "", f"# {name}", ""]
    lines += ["A segmenter trained on preferences between masks with exptilt.", "", "## Use", ""]
    classes = len(found.classes) if found else 2
    lines += [(_UNET if is_unet else _TRANSFORMERS).format(name=run.model, classes=classes), ""]
    if found is not None:
        names = [one.name for one in (found.policy, found.reference, *found.rivals)]
        lines += ["## Measured", "", f"On {found.num_images} held-out images; intervals are over images.", ""]
        lines += [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in measure_rows(found)]
        lines.append("")
    for caution in run.run.warnings:
        lines.append(f"- {'Alarm' if caution.alarm else 'Warning'} at step {caution.step}: {caution.message}.")
    lines += ["", "## Recipe", "", "```yaml", (run.recipe_text() or "").rstrip(), "```", ""]
    write_whole(run.model / "README.md", "\n".join(lines))
    return run.model / "README.md"
