"""`exptilt frontier`: train the grid, measure its checkpoints, and draw them beside the optimum.

reference and preferences -> runs/NAME (ordinary run folders, with weights/STEP.pt) -> points/NAME-STEP.json (samples as
numbers) -> reference.json (the reference's own samples) -> proposals.npz (samples of trained policies, scored by all)
-> frontier.json, samples.jsonl, report.html

Every file is written in one piece, so a stop loses one run's work since its last checkpoint, or one measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from exptilt.errors import ConfigError, ExptiltError
from exptilt.policies.device import model_on_device
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.policies.turn_ends import turn_ends
from exptilt.processes.cores import usable_cores
from exptilt.processes.surroundings import left_as_found
from exptilt.reports.page import write_report
from exptilt.reports.report_terminal import best_of_n_table, frontier_table
from exptilt.run_folder.file_names import (
    FRONTIER,
    SAMPLES,
    STUDY_CONFIG,
    STUDY_POINTS,
    STUDY_POOL,
    STUDY_PROPOSALS,
    STUDY_RUNS,
)
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.lock import claimed
from exptilt.run_folder.study_record import MeasuredSamples, ReferenceSamples
from exptilt.runs.run_inputs import data_inputs, model_inputs, reward_inputs
from exptilt.settings.any_recipe import AnyGrid, load_grid
from exptilt.settings.declaration import as_dict
from exptilt.settings.grid_settings import GridRecipe, GridRun, Method, OwnTask
from exptilt.settings.load import dump, load
from exptilt.settings.mask_grid_settings import MaskGridRecipe
from exptilt.studies.bench import Yardstick
from exptilt.studies.grid import bench_of, law_of
from exptilt.studies.grid_weights import digest_of_file, keep_weights, kept_weights, step_of, with_weights
from exptilt.studies.labels_by_reward import Bench, finish
from exptilt.studies.learned_reward import learned_reward
from exptilt.studies.mask_grid import MaskGrid
from exptilt.studies.proposals import Proposals
from exptilt.studies.study import FrontierStudy, PolicyPoint, ReferencePool
from exptilt.studies.tasks.own_task import rewarding

_MODULE = "exptilt.verbs.frontier"


@left_as_found()
def frontier(recipe: AnyGrid, console: Console | None = None) -> dict[str, Any]:
    """Run a study of texts or of masks, print its table, write its report; a second call continues where the first stopped.

    Returns:
        The content of frontier.json.

    Raises:
        ConfigError: the folder holds a study of another task, seed or measurement.
        CheckpointError: the folder holds something else or overlaps with an input, or another process works in it.
        ExptiltError: a run failed, or a reward is not finite.
    """
    console = console or Console()
    folder = RunFolder(recipe.folder)
    with claimed(folder.path, "study", _inputs_of(recipe)) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        _begin_study(folder, recipe)
        if isinstance(recipe, MaskGridRecipe):
            return _study_of_masks(recipe, folder, console)
        return _study(recipe, folder, console)


def _study_of_masks(recipe: MaskGridRecipe, folder: RunFolder, console: Console) -> dict[str, Any]:
    grid = MaskGrid(recipe)
    console.print(f"measured on {len(grid.images)} held-out images by {grid.reward.name}", highlight=False)
    for entry in recipe.runs:
        console.print(f"train and measure {entry.title}", highlight=False)
        grid.train(entry, Console(quiet=True))
    command, num = f"exptilt frontier {folder.path / STUDY_CONFIG}", len(grid.images)
    with console.status("the optimum of every image") as status:
        frontier = grid.content(command, lambda done: status.update(f"the optimum of image {done} of {num}"))
    folder.write(FRONTIER, frontier)
    page = write_report([folder.path])
    if frontier.points:
        console.print(frontier_table(frontier))
    console.print(f"report: {page}", highlight=False)
    return frontier.as_dict()


def _study(recipe: GridRecipe, folder: RunFolder, console: Console) -> dict[str, Any]:
    grid = Grid(recipe)
    console.print(f"reference: {grid.bench.reference.path}", highlight=False)
    for name, value in grid.bench.facts.items():
        console.print(f"{name}: {value}", highlight=False)
    if any(method.asks_learned_reward for method in recipe.methods):
        console.print("train a reward model on the preferences", highlight=False)
        learned_reward(recipe.folder, grid.bench, recipe.seed)
    if recipe.jobs > 1:
        _in_processes(recipe, console)
    else:
        for entry in recipe.runs:
            console.print(f"train and measure {entry.title}", highlight=False)
            grid.run(entry)
    study = grid.collect()
    command = f"exptilt frontier {folder.path / STUDY_CONFIG}"
    frontier = study.content(command=command, facts=grid.bench.facts)
    folder.write(FRONTIER, frontier)
    folder.write_lines(SAMPLES, study.side_by_side())
    page = write_report([folder.path])
    if frontier.points:
        console.print(frontier_table(frontier))
    console.print(best_of_n_table(frontier))
    console.print(f"report: {page}", highlight=False)
    return frontier.as_dict()


@dataclass(frozen=True)
class Grid:
    """One study in one process."""

    recipe: GridRecipe

    @cached_property
    def bench(self) -> Bench:
        """Reference, preferences, prompts and reward."""
        return bench_of(self.recipe)

    @cached_property
    def yardstick(self) -> Yardstick:
        """The yardstick that policies are measured with."""
        tokenizer, reference = load_tokenizer(self.bench.reference), self._model()
        return Yardstick(
            reference=reference,
            tokenizer=tokenizer,
            prompts=self.bench.prompts,
            reward=self.bench.reward,
            law=law_of(self.recipe.measure).ending_at(turn_ends(tokenizer, reference)),
            seed=self.recipe.seed + 10,
        )

    @cached_property
    def pool(self) -> ReferencePool:
        """The reference's own samples, stored in reference.json."""
        folder, digest = RunFolder(self.recipe.folder), self._digest(self.recipe.measure.pool, "with tokens")
        known = folder.record(ReferenceSamples, STUDY_POOL)
        if known is not None and known.measured_with == digest:
            return ReferencePool.read(known, self.yardstick.law)
        pool = ReferencePool.draw(self.yardstick, self.recipe.measure.pool)
        folder.write(STUDY_POOL, pool.record(digest))
        return pool

    def run(self, entry: GridRun) -> None:
        """Train one run unless it is finished, and measure its checkpoints that are not measured yet."""
        reward = self._reward(entry.method) if entry.method.rollout is not None else None
        run = finish(self.recipe.recipe(entry, self.bench.reference, self.bench.data, reward))
        keep_weights(run.path, self.recipe.measure.every, self._model)
        for weights in self._weights(entry):
            self._measurement_of(entry, weights)

    def _reward(self, method: Method) -> Any:
        """What rewards the rollouts of a method that names no reward of its own."""
        if method.asks_learned_reward:
            return learned_reward(self.recipe.folder, self.bench, self.recipe.seed)
        if self.bench.true_reward is None:
            raise ConfigError(
                f"methods: {method.title}: name a reward for its rollouts (rollout.reward), since task.reward is a function of texts"
            )
        return self.bench.true_reward

    def collect(self) -> FrontierStudy:
        """Place every measured checkpoint, run by run in order of steps."""
        proposals = self._proposals()
        study = FrontierStudy(self.pool, self.bench.reward_name, proposals, self._proxies(proposals))
        for entry in self.recipe.runs:
            files = self._weights(entry)
            for weights in files:
                loss = entry.method.loss
                point = PolicyPoint(
                    name=entry.title,
                    method="Preferred-FT" if loss.kind.imitates else type(loss).__name__,
                    beta=getattr(loss, "beta", None),
                    steps=step_of(weights),
                    run=entry.slug,
                    seed=entry.seed,
                    objective=entry.method.title,
                    final=weights == files[-1],
                )
                study.add(point, self._measurement_of(entry, weights), self.yardstick.provenance)
        return study

    def _proposals(self) -> Proposals | None:
        """Samples of the policies that ended with the highest rewards, read from their file or drawn now."""
        ends = {entry.slug: (entry, self._weights(entry)[-1]) for entry in self.recipe.runs}
        reward = {slug: float(np.mean(self._measurement_of(*end).reward)) for slug, end in ends.items()}
        best = [ends[slug] for slug in sorted(ends, key=lambda slug: -reward[slug])[: self.recipe.measure.proposals]]
        if not best:
            return None
        each = max(1, self.recipe.measure.pool // (2 * len(best)))
        path = self.recipe.folder / STUDY_PROPOSALS
        digest = self._digest("proposals", self.recipe.measure.pool, each, [digest_of_file(end) for _, end in best])
        stored = Proposals.load(path, digest)
        if stored is None:
            policies = {entry.title: partial(self._policy, end) for entry, end in best}
            reference_groups = self.pool.draws(self.yardstick).groups
            stored = Proposals.draw(self.yardstick, policies, reference_groups, each)
            stored.save(path, digest)
        return stored

    def _proxies(self, proposals: Proposals | None) -> dict[str, NDArray[np.float64]]:
        """Other rewards of the reference's samples, which show the effect on the true reward of optimising them."""
        implicit = {} if proposals is None else proposals.implicit_rewards()
        proxies = {f"implicit reward of {name}": values for name, values in implicit.items()}
        if self.recipe.measure.proxy is not None:
            proxy = rewarding(self.recipe.measure.proxy)
            values = self.yardstick.rewards(self.pool.draws(self.yardstick), proxy)
            proxies[proxy.name] = values.reshape(self.pool.rewards.shape)
        return proxies

    def _measurement_of(self, entry: GridRun, weights: Path) -> MeasuredSamples:
        """Samples of one policy as numbers, read from their file or drawn now."""
        folder, name = RunFolder(self.recipe.folder / STUDY_POINTS), f"{entry.slug}-{weights.stem}.json"
        stream = 1 + zlib.crc32(name.encode()) % 1_000_000
        digest = self._digest(self.recipe.measure.num_samples, stream, digest_of_file(weights))
        known = folder.record(MeasuredSamples, name)
        if known is not None and known.measured_with == digest:
            return known
        measured = self.yardstick.measure(self._policy(weights), self.recipe.measure.num_samples, stream)
        folder.write(name, measured.updated(measured_with=digest))
        return measured

    def _model(self) -> Any:
        return model_on_device(load_model(self.bench.reference, load_tokenizer(self.bench.reference)))

    def _policy(self, weights: Path) -> Any:
        return with_weights(self._model(), weights)

    def _weights(self, entry: GridRun) -> list[Path]:
        return kept_weights(self.recipe.folder / STUDY_RUNS / entry.slug, self.recipe.measure.every)

    def _digest(self, *what: Any) -> str:
        """Digest of everything a measurement depends on; a file with another digest is drawn anew."""
        yardstick = self.yardstick
        prompts = [prompt.tolist() for prompt in yardstick.prompts]
        parts = [
            prompts,
            as_dict(yardstick.law),
            yardstick.seed,
            yardstick.provenance.reference,
            self.bench.facts,
            *what,
        ]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _inputs_of(recipe: AnyGrid) -> dict[str, str]:
    """Every path that a study reads and must not overwrite, by its key."""
    if isinstance(recipe, MaskGridRecipe):
        named = {
            "segmenter.path": recipe.segmenter.path,
            "data.train": recipe.data.train,
            "data.test": recipe.data.test,
        }
        return {key: path for key, path in named.items() if path}
    task, read = recipe.task, reward_inputs(recipe.measure.proxy, "measure.proxy")
    if isinstance(task, OwnTask):
        return read | model_inputs(task.model, "task.model") | data_inputs(task.data, "task.data")
    data = getattr(task, "data", None)
    return read if data is None else read | {"task.data": str(data)}


def _begin_study(folder: RunFolder, recipe: AnyGrid) -> None:
    """Write the resolved recipe, unless the folder belongs to another study."""
    earlier = folder.path / STUDY_CONFIG
    if earlier.exists():
        before = as_dict(load_grid(earlier))
        now = as_dict(recipe)
        fixed = ("segmenter", "data") if isinstance(recipe, MaskGridRecipe) else ("task", "seed")
        changed = [name for name in fixed if before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"{folder.path}: holds a study with another {' and another '.join(changed)}; "
                "choose another output, or remove the folder"
            )
    folder.write_text(STUDY_CONFIG, dump(recipe))


def _in_processes(recipe: GridRecipe, console: Console) -> None:
    """Run every run in a process of its own, `jobs` at a time; if one fails, the study stops once the others have ended."""
    threads = max(1, usable_cores() // recipe.jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def start(entry: GridRun) -> int:
        console.print(f"train and measure {entry.title}", highlight=False)
        command = [sys.executable, "-m", _MODULE, str(recipe.folder / STUDY_CONFIG), entry.slug]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own interpreter

    with ThreadPoolExecutor(recipe.jobs) as pool:
        try:
            codes = list(pool.map(start, recipe.runs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    failed = [entry.title for entry, code in zip(recipe.runs, codes, strict=True) if code]
    if failed:
        raise ExptiltError(f"{len(failed)} of {len(recipe.runs)} runs failed, see above: {', '.join(failed)}")


def _main(arguments: Sequence[str]) -> int:
    """Train and measure one run of a study; `_in_processes` starts it."""
    path, slug = arguments
    recipe = load(GridRecipe, path)
    entry = next(entry for entry in recipe.runs if entry.slug == slug)
    try:
        with left_as_found():
            Grid(recipe).run(entry)
    except ExptiltError as error:
        print(f"exptilt: {entry.title}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
