"""`exptilt masks`, and what `doctor`, `evaluate`, `plan` and `export` do with a recipe or a run of masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from exptilt.data.account.data_terminal import print_report
from exptilt.data.masks.mask_checks import prepare_held_out, prepare_masks, refused_masks
from exptilt.data.masks.mask_set import MaskSet
from exptilt.errors import CheckpointError, ConfigError, DataError
from exptilt.planning.mask_plan import plan_masks
from exptilt.policies.saving import copy_model
from exptilt.processes.surroundings import left_as_found
from exptilt.reports.mask_card import write_mask_card
from exptilt.reports.mask_page import write_mask_report
from exptilt.reports.tables.mask_table import print_measures
from exptilt.run_folder.file_names import CONFIG, MASK_EVALUATION
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.mask_evaluation_record import MaskEvaluation
from exptilt.run_folder.ownership import require_apart
from exptilt.runs.checks.installation import installation_findings
from exptilt.runs.mask_candidates import write_candidates
from exptilt.runs.mask_measuring import measure_masks
from exptilt.runs.mask_run import train_rivals
from exptilt.runs.mask_session import channels_of_recipe, mask_loss
from exptilt.runs.rounds.mask_rounds import images_of_rounds, mask_work_of
from exptilt.runs.run_inputs import inputs_of
from exptilt.settings.evaluated_recipe import instead_of_share
from exptilt.settings.load import load
from exptilt.settings.mask_settings import MaskRecipe, MaskRequest, SegmenterConfig
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
    for reason, count in written.left_out.items():
        print(f"left out: {count:,} with {reason}")
    if request.annotator is None:
        rows, then = counted(written.rows, "item to compare", "items to compare"), f"exptilt label {written.manifest}"
    else:
        rows, then = counted(written.rows, "pair"), f"exptilt train RECIPE data.train={written.manifest}"
    print(f"{rows} of {counted(written.images, 'image')}: {written.manifest}; next: {then}")


def doctor_of_masks(recipe: MaskRecipe, as_json: bool, console: Console | None = None) -> int:
    """Check the rows of a recipe for masks, every file of them, and print the report; of rounds, their images.

    Returns:
        0, or 1 if a run would refuse these rows.
    """
    kind = mask_loss(recipe).kind
    if recipe.rounds is None:
        report = prepare_masks(recipe.data, kind, channels_of_recipe(recipe)).report
    else:
        report = images_of_rounds(recipe)
        if recipe.data.test is not None:
            prepare_held_out(recipe.data, kind, channels_of_recipe(recipe))
    report = report.adding(*installation_findings())
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
        return int(bool(report.refusal))
    console = console or Console()
    print_report(report, console)
    if recipe.rounds is not None:
        console.print("\n".join(mask_work_of(recipe, report.train.kept or 0)), highlight=False, soft_wrap=True)
    return int(bool(report.refusal))


def plan_of_masks(recipe: MaskRecipe, gpus: str | None, as_json: bool) -> int:
    """Print the steps, time and memory of a run on masks, measured here on its own first images.

    Returns:
        0, or 1 if it would not fit.

    Raises:
        ConfigError: other devices are named.
    """
    if gpus not in (None, "cpu"):
        raise ConfigError(
            "--gpus: a run on masks is planned by measuring a step on this machine; run `exptilt plan` there"
        )
    with left_as_found():
        plan = plan_masks(recipe)
    print(json.dumps(plan.as_dict(), indent=1) if as_json else "\n".join(plan.in_words()))
    return int(not plan.fits)


@left_as_found()
def evaluate_masks_of(
    run: Path,
    overrides: Sequence[str],
    policy: str | None = None,
    references: Sequence[str] = (),
    output: Path | None = None,
) -> list[MaskEvaluation]:
    """Measure the segmenter of a run on held-out images, print a table, and keep the numbers.

    Args:
        run: a run on masks, or the folder of rounds.
        overrides: `key=value` over its recipe, such as `data.test=other.jsonl` or `evaluate.rivals=true`.
        policy: another segmenter to measure.
        references: others to measure against, one after the other; default, the run's start.
        output: folder of the files; by default the run.

    Raises:
        CheckpointError: the run has no segmenter yet.
        DataError: nothing is held out.
    """
    recipe, folder = load(MaskRecipe, run / CONFIG, instead_of_share(overrides)), RunFolder(run)
    if recipe.rounds is not None and any(item.startswith("evaluate.rivals") for item in overrides):
        raise ConfigError(
            f"{run}: rivals of rounds go through rounds: exptilt train RECIPE evaluate.rivals=true trains what is missing"
        )
    if policy is None and not folder.model.is_dir():
        raise CheckpointError(f"{folder.model}: there is no segmenter; finish the run with `exptilt train` first")
    in_run = output is None or output.resolve() == run.resolve()
    place = run if output is None else output
    inputs = None if in_run else {"the run": str(run), **inputs_of(recipe)}
    with claimed(place, "run" if in_run else "evaluation", inputs, key="--output", shared=True):
        train, test = _rows(recipe)
        recipe = replace(recipe, output=str(place))
        found = []
        for reference in references or ("",):
            own = recipe if not reference else replace(recipe, segmenter=SegmenterConfig(path=reference))
            name = _file_of(overrides, policy, reference)
            rivals = train_rivals(own, train, Console(stderr=True)) if own.evaluate.rivals and train is not None else {}
            model = folder.model if policy is None else Path(policy)
            found.append(measure_masks(own, RunFolder(place), model, test, rivals, name))
            print_measures(found[-1], Console())
            print(f"written: {place / name}")
    if in_run and any(_file_of(overrides, policy, reference) == MASK_EVALUATION for reference in references or ("",)):
        print(f"report: {write_mask_report(run)}")
    return found


def export_masks(run: Path, *, merge: bool = False, output: Path | None = None) -> Path:
    """Return the folder of a run's segmenter with its card, ready to be used elsewhere.

    Raises:
        CheckpointError: the run is not finished.
        ConfigError: the output is in use, or an adapter is to be merged, which segmenters do not have.
    """
    folder = RunFolder(run)
    if merge:
        raise ConfigError(f"{run}: a run on masks, whose segmenter has no adapter to merge; leave out --merge")
    if folder.run.status != "done" or not folder.model.is_dir():
        raise CheckpointError(f"{run}: this run is not finished; go on with `exptilt train {run}/config.yaml`")
    if not (folder.model / "README.md").is_file():  # an existing card may have been edited
        write_mask_card(folder)
    if output is None:
        return folder.model
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is not an empty folder; choose another --output")
    require_apart(output, {"the run's model": str(folder.model)}, "--output")
    copy_model(folder.model.resolve(), output)
    return output


def _rows(recipe: MaskRecipe) -> tuple[MaskSet | None, MaskSet]:
    """Rows to train rivals on, where they are at hand, and held-out rows."""
    kind, channels = mask_loss(recipe).kind, channels_of_recipe(recipe)
    if recipe.data.test is None and not recipe.data.test_fraction:
        raise DataError("no held-out images; name some with data.test=... or data.test_fraction=0.1")
    if recipe.rounds is not None or (recipe.data.test is not None and not recipe.evaluate.rivals):
        return None, prepare_held_out(recipe.data, kind, channels)
    prepared = refused_masks(prepare_masks(recipe.data, kind, channels))
    return prepared.train, prepared.test


def _file_of(overrides: Sequence[str], policy: str | None, reference: str) -> str:
    """The run's own file, or one named after what is measured beside it."""
    tests = [item.partition("=")[2].strip("\"'") for item in overrides if item.startswith("data.test=")]
    parts = [Path(name).name.partition(".")[0] for name in (*tests, policy or "", reference) if name]
    others = [item for item in overrides if not item.startswith(("evaluate.", "data.test=", "batch.images="))]
    parts += ["changed"] if others and not parts else []
    return f"mask_evaluation-{'-'.join(parts)}.json" if parts else MASK_EVALUATION
