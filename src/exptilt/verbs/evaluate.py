"""`exptilt evaluate`: measure a run's model, or any other model or adapter, on held-out rows, against a reference."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.data.groups import Group
from exptilt.errors import CheckpointError, ConfigError, DataError
from exptilt.evaluation.held_out import HeldOutMeasures, Wanted, detectable_line, measure_policy
from exptilt.evaluation.held_out_scores import measure_reward_model
from exptilt.losses.from_choice import build_loss
from exptilt.online.rollout_prompts import rollout_prompts
from exptilt.policies.adapters import has_adapter
from exptilt.policies.device import is_quantized
from exptilt.policies.fingerprint import adapter_fingerprint, fingerprint
from exptilt.policies.reference.references import TableReference
from exptilt.processes.surroundings import left_as_found
from exptilt.reports.tables.evaluation_table import evaluation_table, gainers_text, references_table
from exptilt.rewards.reward_from_choice import build_reward
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.file_names import DATA, EVALUATION, MODEL, RUN, SAMPLES, margins_of
from exptilt.run_folder.folder import RunFolder, manifest
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.ownership import Kind
from exptilt.run_folder.run_record import ModelFacts, ReferenceIdentity
from exptilt.runs.merged_base import from_merged_base
from exptilt.runs.model_evaluation import loaded, measure_model, measured_rows, reference_table
from exptilt.runs.run_inputs import inputs_of, prompt_data
from exptilt.runs.run_models import reference_model
from exptilt.runs.run_rollouts import rollouts_in, wanted_online
from exptilt.settings.evaluated_recipe import is_run, recipe_of_model, recipe_of_run, with_reference
from exptilt.settings.recipe import Recipe


def evaluate(
    what: str,
    overrides: Sequence[str],
    *,
    policy: str | None = None,
    reference: str | Sequence[str] | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure a run, or a model or adapter that belongs to no run.

    Against several references it is measured once for each, on the same rows and with the same draws; the result is then
    a mapping from references to evaluations, and each has a file of its own.

    Args:
        what: a run folder, a model folder, a PEFT adapter's folder or a hub id.
        overrides: `key=value` over the run's recipe, or over the defaults, where `data.train` names the rows.
        policy: for a run, another model to measure against the run's reference.
        reference: another model to measure against, or several.
        output: folder of the files; by default the run, or a folder beside the model.

    Raises:
        ConfigError: two references would have one file.
    """
    if reference is not None and not isinstance(reference, str):
        return _against_each(what, overrides, reference, policy, output)
    overrides = with_reference(overrides, reference)
    if is_run(what):
        return evaluate_run(Path(what), overrides, policy, output)
    if policy is not None:
        raise CheckpointError(f"{what}: is not a run folder (it has no config.yaml), and --policy needs a run")
    return evaluate_model(what, overrides, output)


def _against_each(
    what: str, overrides: Sequence[str], references: Sequence[str], policy: str | None, output: Path | None
) -> dict[str, Any]:
    """One evaluation for each reference, and a table of all beside each other."""
    names = [_short(one) for one in references]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--reference: two references end in {twice[0]!r}, so their files would have one name")
    found: dict[str, Any] = {}
    for one in references:
        if is_run(what):
            found[one] = evaluate_run(Path(what), with_reference(overrides, one), policy, output)
        elif policy is not None:
            raise CheckpointError(f"{what}: is not a run folder (it has no config.yaml), and --policy needs a run")
        else:
            name = EVALUATION if not found else f"evaluation-{_short(one)}.json"
            found[one] = evaluate_model(what, with_reference(overrides, one), output, name=name)
    if len(found) > 1:
        Console().print(references_table({_short(one): Evaluation.from_dict(each) for one, each in found.items()}))
    return found if len(found) > 1 else next(iter(found.values()))


@left_as_found()
def evaluate_run(
    run: Path, overrides: Sequence[str], policy: str | None = None, output: Path | None = None
) -> dict[str, Any]:
    """Measure a run on held-out rows, print a table, and keep the numbers in the run folder.

    The run's own evaluation is written to `evaluation.json`. With overrides or another policy it goes to a separate file,
    named after the test source and the policy, so that every number keeps its context.

    Args:
        run: a run folder.
        overrides: `key=value` over the run's recipe, for example `data.test=other.jsonl`.
        policy: another model to measure against the run's reference.
        output: another folder for the files.

    Raises:
        ExptiltError: there is no run, no held-out row or no finished model, or the reference has changed.
    """
    folder, recipe = RunFolder(run), recipe_of_run(run, overrides)
    if policy is None and not any((folder.model / name).exists() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(f"{folder.model}: there is no model; finish the run with `exptilt train` first")
    in_run = output is None or output.resolve() == run.resolve()
    inputs = None if in_run else inputs_of(replace(recipe, output=str(output))) | {"the run's model": str(folder.model)}
    with _claimed(output or run, "run" if in_run else "evaluation", inputs):
        return _evaluated(recipe, folder, overrides, policy, output)


def _evaluated(
    recipe: Recipe, folder: RunFolder, overrides: Sequence[str], policy: str | None, output: Path | None
) -> dict[str, Any]:
    start = from_merged_base(recipe)
    start = start if start.sft is None else start.after_sft(start.sft_recipe().folder / MODEL)
    where = replace(recipe.model, path=policy or str(folder.model), config=None, tokenizer=None, revision=None)
    model, tokenizer = loaded(where, recipe.loss.kind)
    rows = measured_rows(recipe, model, tokenizer)
    if not rows.test:
        raise DataError(
            f"{recipe.data.named}: no held-out rows; name some with data.test=... or data.test_fraction=0.1"
        )
    held_out, name = rows.test, _evaluation_file(recipe, overrides, policy)
    if recipe.rollout is not None:
        measures = _online(recipe, start, model, tokenizer, held_out)
        return _kept(RunFolder(output or folder.path), name, measures, None)
    Console().print(detectable_line(held_out, recipe.evaluate.level), highlight=False, soft_wrap=True)
    wanted = Wanted.of(build_loss(recipe.loss), recipe.evaluate, recipe.batch.at_once, recipe.seed)
    if recipe.loss.kind.scores:
        return _kept(RunFolder(output or folder.path), name, measure_reward_model(model, held_out, wanted), None)
    table = None
    if not recipe.loss.kind.imitates:
        reference = reference_model(start, tokenizer)
        table = reference_table(start, reference, held_out)
        if not any(item.startswith("reference.model=") for item in overrides):
            table = _require_same(folder, reference, table)
    measures = measure_policy(model, partial(reference_model, start, tokenizer), tokenizer, held_out, table, wanted)
    return _kept(RunFolder(output or folder.path), name, measures, table)


def _online(recipe: Recipe, start: Recipe, model: Any, tokenizer: Any, held_out: Sequence[Group]) -> HeldOutMeasures:
    """Samples of an online run's policy and of its reference on held-out prompts, with their rewards."""
    settings = rollouts_in(recipe)
    (asked,) = rollout_prompts(prompt_data(recipe), (held_out,), take_prompts=settings.take_prompts)
    asked = asked[: recipe.evaluate.num_prompts]
    reward = None if settings.reward is None else build_reward(settings.reward)
    wanted = wanted_online(recipe, build_loss(recipe.loss), reward, asked)
    groups = [one.group for one in asked]
    return measure_policy(model, partial(reference_model, start, tokenizer), tokenizer, groups, None, wanted)


@left_as_found()
def evaluate_model(
    what: str, overrides: Sequence[str], output: Path | None = None, *, name: str = EVALUATION
) -> dict[str, Any]:
    """Measure a model that belongs to no run, and write a folder that `exptilt report` reads.

    An adapter is measured against its base, another model against the one `reference.model` names, or without one.

    Args:
        what: a model folder, a PEFT adapter's folder or a hub id.
        overrides: `key=value`; `data.train` (or `data.test`) names the rows.
        output: folder to write; by default a folder beside the model, or here for a hub id.
        name: name of the file of numbers; run card, data report and samples belong to the usual name.

    Raises:
        ExptiltError: there is no such model, there are no rows, or the rows are no pairs.
    """
    recipe = recipe_of_model(what, overrides, output)
    folder = RunFolder(recipe.folder)
    with _claimed(folder.path, "evaluation", inputs_of(recipe)):
        return _evaluated_alone(what, recipe, folder, overrides, name)


def _evaluated_alone(
    what: str, recipe: Recipe, folder: RunFolder, overrides: Sequence[str], name: str
) -> dict[str, Any]:
    measured = measure_model(recipe, has_beta=any(item.startswith("loss") for item in overrides))
    if name == EVALUATION:
        _begin_folder(folder, measured.recipe, what, overrides, measured.table)
        folder.write(DATA, measured.rows.report)
        if measured.measures.samples:
            folder.write_lines(SAMPLES, measured.measures.samples)
    return _kept(folder, name, measured.measures, measured.table)


@contextmanager
def _claimed(folder: Path, kind: Kind, inputs: Mapping[str, str] | None) -> Iterator[None]:
    """Lock the output folder against a run that trains there; other measurements may share it."""
    with claimed(folder, kind, inputs, key="--output", shared=True) as caution:
        if caution is not None:
            Console(stderr=True).print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        yield


def _require_same(folder: RunFolder, reference: Any, table: TableReference) -> TableReference:
    """Return the table under the identity that the run gave its reference; refuse it if the weights differ."""
    recorded = None if folder.run.reference is None else folder.run.reference.identity
    if recorded is None or recorded == table.identity:
        return table
    if recorded not in _identities(reference):
        raise CheckpointError(
            f"{folder.path}: was trained from a reference with identity {recorded[:12]}, but {table.source} now have "
            f"{table.identity[:12]}; put the old weights back, or name what to measure against with --reference"
        )
    return replace(table, identity=recorded)


def _identities(reference: Any) -> set[str]:
    """Identities that training may have given these weights: as stored, in float32, and with an adapter's settings."""
    identities = {fingerprint(reference)}
    if not is_quantized(reference):
        identities.add(fingerprint(reference.float()))
    if has_adapter(reference):
        settings = adapter_fingerprint(reference)
        identities |= {hashlib.sha256((weights + settings).encode()).hexdigest() for weights in identities}
    return identities


def _kept(folder: RunFolder, name: str, measures: HeldOutMeasures, table: TableReference | None) -> dict[str, Any]:
    """Write the measurements, print them, and tell where they are."""
    evaluation = measures.evaluation.updated(reference=_identity_of(table))
    folder.write(name, evaluation)
    if measures.margins:
        folder.write_lines(margins_of(name), measures.margins)
    console = Console()
    console.print(evaluation_table(evaluation))
    gained = gainers_text(evaluation)
    if gained:
        console.print(gained, highlight=False)
    console.print(f"written: {folder.path / name}", highlight=False, soft_wrap=True)
    return evaluation.as_dict()


def _identity_of(table: TableReference | None) -> ReferenceIdentity | None:
    return None if table is None else ReferenceIdentity(identity=table.identity, source=table.source)


def _begin_folder(
    folder: RunFolder, recipe: Recipe, what: str, overrides: Sequence[str], table: TableReference | None
) -> None:
    """Write a card that describes the measurement."""
    settings = [item for item in overrides if not item.startswith("reference.model=")]
    chosen = [] if recipe.reference.model is None else ["--reference", recipe.reference.model]
    card = manifest(recipe.seed).updated(
        status="measured",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model=ModelFacts(name=what),
        reference=_identity_of(table),
        command=shlex.join(["exptilt", "evaluate", what, *settings, *chosen, "--output", str(folder.path)]),
    )
    folder.write(RUN, card)


def _evaluation_file(recipe: Recipe, overrides: Sequence[str], policy: str | None) -> str:
    if not overrides and policy is None:
        return EVALUATION
    parts = [Path(next(iter(recipe.data.held_out_sources or recipe.data.sources)).path).name.split(".")[0]]
    parts += [_short(model) for model in (policy, recipe.reference.model) if model is not None]
    return "-".join(["evaluation", *parts]) + ".json"


def _short(model: str) -> str:
    """A short name of a model; the folder `model` of a run is named after the run, because all runs have one."""
    path = Path(model)
    return path.resolve().parent.name if path.name == MODEL else path.name
