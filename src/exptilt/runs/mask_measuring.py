"""The segmenter of a run measured as it was saved, beside its start and its rivals; and pictures of held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from exptilt.data.masks.mask_set import MaskSet
from exptilt.disk import write_whole
from exptilt.evaluation.masks.mask_evaluation import evaluate_masks
from exptilt.evaluation.masks.mask_pictures import picture_of, tiles_of
from exptilt.policies.segmenters.segmenter_files import load_segmenter
from exptilt.run_folder.file_names import MASK_EVALUATION, PICTURES
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.settings.mask_settings import MaskRecipe, SegmenterConfig


def measure_masks(
    recipe: MaskRecipe,
    folder: RunFolder,
    model: Path,
    test: MaskSet,
    rivals: Mapping[str, Path] | None = None,
    name: str = MASK_EVALUATION,
) -> MaskEvaluation:
    """Measure a saved segmenter beside the weights that the recipe starts from, and write the numbers and pictures.

    Args:
        recipe: of the run; `segmenter` is the reference.
        folder: where the files go.
        model: folder of the segmenter.
        test: held-out rows.
        rivals: folders of others that learned from the same rows, by name.
        name: file of the numbers; pictures are drawn for the run's own alone.
    """
    classes = len(test.palette.names)
    trained = load_segmenter(SegmenterConfig(path=str(model)), classes)
    start = load_segmenter(recipe.segmenter, classes, recipe.seed)
    measured = partial(
        evaluate_masks, reference=start, rows=test, level=recipe.evaluate.level, at_once=recipe.batch.images
    )
    record = MaskEvaluation(
        level=recipe.evaluate.level,
        num_images=len({row.image for row in test.rows}),
        num_targets=len({row.image for row in test.rows if row.target is not None}),
        classes=test.palette.names,
        tiles=tiles_of(test.pixels(0)),
        policy=measured(trained, name="trained"),
        reference=measured(start, name="start"),
        rivals=tuple(
            measured(load_segmenter(SegmenterConfig(path=str(path)), classes), name=rival)
            for rival, path in (rivals or {}).items()
        ),
    )
    folder.write(name, record)
    if name == MASK_EVALUATION:
        (folder.path / PICTURES).mkdir(exist_ok=True)
        for at in range(min(recipe.evaluate.pictures, len(test))):
            write_whole(folder.path / PICTURES / f"{at:02d}.png", picture_of(test.pixels(at), start, trained))
    return record
