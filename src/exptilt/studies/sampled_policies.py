"""The policies of a grid of win rates as things that answer: each loads its weights only where answers are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from exptilt.disk import write_whole
from exptilt.errors import ConfigError
from exptilt.policies.device import model_on_device
from exptilt.policies.fingerprint import identity_of
from exptilt.policies.models import load_model, load_tokenizer
from exptilt.run_folder.file_names import CONFIG, MODEL
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.checkpoint_model import checkpoints_at, model_at
from exptilt.runs.run_models import reference_model
from exptilt.sampling.local_sampler import local_rows
from exptilt.sampling.prompts_to_sample import AskedPrompt
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleRow
from exptilt.sampling.server_sampler import server_identity, server_rows
from exptilt.settings.evaluated_recipe import is_run, recipe_of_run
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe
from exptilt.studies.judged_grid_settings import JudgedGrid, PolicyConfig, slug

_KNOWN_WEIGHTS = "weights.json"


class GridPolicy(Protocol):
    """A policy at one step of its training."""

    title: str
    step: int | None
    """Of its training, where it is known."""
    final: bool
    """False for a checkpoint on the way."""
    folder: Path
    """Where its samples go."""
    config: PolicyConfig

    @property
    def identity(self) -> str:
        """Of the weights, or of the server."""

    def rows(
        self, asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
    ) -> Iterator[list[SampleRow]]:
        """Answers that are not there yet."""

    def release(self) -> None:
        """Forget the weights."""


@dataclass
class ServerPolicy:
    """Answers of a server."""

    title: str
    folder: Path
    config: PolicyConfig
    step: int | None = None
    final: bool = True

    @property
    def identity(self) -> str:
        """Model and address."""
        assert self.config.server is not None  # noqa: S101 - for mypy
        return server_identity(self.config.server)

    def rows(
        self, asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
    ) -> Iterator[list[SampleRow]]:
        """Ask for what is missing."""
        return server_rows(asked, request, done)

    def release(self) -> None:
        """There are no weights."""


@dataclass
class LocalPolicy:
    """A model, an adapter, a run's end or one of its checkpoints, in this process."""

    title: str
    folder: Path
    config: PolicyConfig
    model: ModelConfig
    """Settings by which the tokenizer, and unless it is a checkpoint the weights, are loaded."""
    recipe: Recipe | None = None
    """Of the run it belongs to."""
    checkpoint: Path | None = None
    step: int | None = None
    final: bool = True

    @property
    def identity(self) -> str:
        """The fingerprint of the weights, known without loading them while no file of theirs has changed."""
        files = _files_of(self.checkpoint or Path(str(self.model.path)).expanduser())
        known = self.folder / _KNOWN_WEIGHTS
        if files and known.is_file():
            noted = json.loads(known.read_text(encoding="utf-8"))
            if noted["files"] == files:
                return str(noted["identity"])
        identity = identity_of(self.weights)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(known, json.dumps({"identity": identity, "files": files}) + "\n")
        return identity

    @cached_property
    def tokenizer(self) -> Any:
        """Of the model."""
        return load_tokenizer(self.model)

    @cached_property
    def weights(self) -> Any:
        """The model, loaded."""
        if self.checkpoint is not None and self.recipe is not None:
            return model_at(self.recipe, self.checkpoint, self.tokenizer)
        return model_on_device(load_model(self.model, self.tokenizer))

    def rows(
        self, asked: Sequence[AskedPrompt], request: SampleRequest, done: set[tuple[str, int]]
    ) -> Iterator[list[SampleRow]]:
        """Draw what is missing."""
        return local_rows(self.weights, self.tokenizer, asked, request, done)

    def release(self) -> None:
        """Let the next policy have the memory."""
        self.__dict__.pop("weights", None)

    def reference(self, named: ModelConfig | None) -> Any:
        """The model that its KL is measured from: the one named, else the reference of its run; None where there is none."""
        if named is not None:
            return model_on_device(load_model(named, load_tokenizer(named))).eval()
        return None if self.recipe is None else reference_model(self.recipe, self.tokenizer)


def sampled_policies(grid: JudgedGrid) -> list[GridPolicy]:
    """All policies of a grid that are asked for answers, checkpoints before the end of their run.

    Raises:
        ConfigError: checkpoints of something that is no run.
        CheckpointError: a checkpoint that is not there.
    """
    found: list[GridPolicy] = []
    for policy in grid.policies:
        folder = grid.folder / "samples" / slug(policy.title)
        if policy.server is not None:
            found.append(ServerPolicy(policy.title, folder, policy))
        elif policy.model is not None:
            found += _local(policy, policy.model, folder)
    return found


def _local(policy: PolicyConfig, model: ModelConfig, folder: Path) -> list[GridPolicy]:
    run = Path(str(model.path)).expanduser()
    if not is_run(str(run)):
        if policy.checkpoints is not None:
            raise ConfigError(f"policies: {policy.title}: {run} is no run folder (it has no {CONFIG}): no checkpoints")
        return [LocalPolicy(policy.title, folder / "end", policy, model)]
    recipe = recipe_of_run(run, [])
    settings = ModelConfig(path=str(run / MODEL), dtype=model.dtype, trust_remote_code=model.trust_remote_code)
    steps = {} if policy.checkpoints is None else checkpoints_at(run, policy.checkpoints)
    known = RunFolder(run).run
    end = known.steps if known.kept is None else known.kept.step
    way: list[GridPolicy] = [
        LocalPolicy(policy.title, folder / f"step-{step}", policy, settings, recipe, path, step, final=False)
        for step, path in steps.items()
        if step != end  # the run's model is that one
    ]
    return [*way, LocalPolicy(policy.title, folder / "end", policy, settings, recipe, step=end)]


def _files_of(folder: Path) -> list[list[Any]]:
    """Name, size and time of every file of a folder; empty for a hub id, whose files are not looked at."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
