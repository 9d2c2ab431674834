"""The state of a run in a checkpoint, and its restoration on any number of processes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor import empty as empty_sharded
from transformers import set_seed

from exptilt.errors import CheckpointError
from exptilt.policies.sharding import reshard
from exptilt.training.callbacks.callback import Callback, Progress
from exptilt.training.checkpoints.read_checkpoint import load_bare, load_checkpoint, load_own
from exptilt.training.checkpoints.shards import lift

if TYPE_CHECKING:
    from exptilt.training.learner import Learner
    from exptilt.training.run import Run

_OPTIMIZER_SIZES = {"AdamW": 2.0, "AdamW8bit": 0.5, "RMSprop": 1.0}
"""The size of an optimizer's state, in units of the weights it moves; that of Adafactor is next to nothing."""


def state_of(run: Run, progress: Progress) -> dict[str, Any]:
    """Collect everything that makes a resumed run equal to one that never stopped, except the random generators."""
    return {
        "step": progress.step,
        "end": progress.num_steps if progress.num_steps != run.num_steps else None,
        "identity": dict(run.identity),
        "model": trained_weights(run.model),
        "optimizer": _optimizer_state(run),
        "schedule": run.schedule.state_dict(),
        "loss": dict(run.objective.state),
        "callbacks": _callback_states(run.callbacks),
        **({} if run.critic is None else {"critic": _learner_state(run.critic)}),
    }


def _learner_state(learner: Learner) -> dict[str, Any]:
    return {
        "model": trained_weights(learner.model),
        "optimizer": _optimizer_state(learner),
        "schedule": learner.schedule.state_dict(),
    }


def state_bytes(run: Run) -> float:
    """Size of a checkpoint's tensors, an estimate before step 1; other files take a few kilobytes."""
    return sum(_bytes_of(learner) for learner in run.learners)


def _bytes_of(learner: Run | Learner) -> float:
    weights = sum(tensor.numel() * tensor.element_size() for tensor in trained_weights(learner.model).values())
    return weights * (1 + _OPTIMIZER_SIZES.get(type(learner.optimizer).__name__, 0.0))


def restore(run: Run, checkpoint: Path) -> Progress:
    """Restore a run from a checkpoint.

    Raises:
        CheckpointError: the checkpoint belongs to another run, or does not fit its weights or its optimizer.
    """
    _require_fitting(run, load_bare(checkpoint), checkpoint)
    state = load_checkpoint(checkpoint, _Targets(run))
    _restore_optimizer(run, state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.objective.state.update(state["loss"])
    _restore_callbacks(run.callbacks, state["callbacks"])
    if run.critic is not None:
        _restore_optimizer(run.critic, state["critic"]["optimizer"])
        run.critic.schedule.load_state_dict(state["critic"]["schedule"])
    step = int(state["step"])
    random_states = load_own(checkpoint, run.world.rank)
    if random_states is None:
        set_seed(seed_of(run.seed, run.world.rank, step))
    else:
        restore_random_state(random_states)
    return Progress(step=step, num_steps=state["end"] or run.num_steps, steps_per_epoch=run.batches.num_steps)


def _require_fitting(run: Run, bare: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse a checkpoint that does not fit, before anything of the run changes."""
    written = {**run.defaults, **bare["identity"]}
    changed = [name for name, value in run.identity.items() if written.get(name) != value]
    if changed and run.settings.resume != "force":
        raise CheckpointError(
            f"{checkpoint}: was written with another {' and another '.join(changed)}; choose another output folder, "
            "or train.resume=never to start anew, or train.resume=force to go on all the same"
        )
    kept_critic = bare.get("critic")
    if (kept_critic is None) != (run.critic is None):
        raise CheckpointError(
            f"{checkpoint}: was written {'without' if kept_critic is None else 'with'} a critic; choose another output folder, or "
            "train.resume=never to start anew"
        )
    for learner, kept in zip(run.learners, (bare, kept_critic), strict=False):
        _require_same_weights(learner, kept or {}, checkpoint)


def _require_same_weights(learner: Run | Learner, bare: Mapping[str, Any], checkpoint: Path) -> None:
    saved, mine = bare["optimizer"], _optimizer_state(learner)
    moved, moves = (
        [name for group in optimizer_state["groups"] for name in group["params"]] for optimizer_state in (saved, mine)
    )
    same = bare["model"].keys() == trained_weights(learner.model).keys()
    if not same or moved != moves or saved["class"] != mine["class"]:
        raise CheckpointError(
            f"{checkpoint}: other weights were trained there, or with another optimizer ({saved['class']}); "
            "choose another output folder, or train.resume=never to start anew"
        )


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into a model; weights that were not trained stay unchanged.

    Raises:
        CheckpointError: the weights do not fit.
    """
    targets = trained_weights(model)
    stored = load_checkpoint(checkpoint)["model"]
    if stored.keys() - targets.keys():
        raise CheckpointError(
            f"{checkpoint}: holds weights {sorted(stored.keys() - targets.keys())[0]}, the model has none"
        )
    with torch.no_grad():
        for name, weights in stored.items():
            targets[name].copy_(weights)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that training may change, by name: trained parameters and persistent buffers.

    A frozen base under an adapter is not among them: the recipe names it, and its fingerprint is part of the identity.
    """
    reshard(model)
    weights = {_uncompiled_name(name): weights for name, weights in model.named_parameters() if weights.requires_grad}
    return {name: tensor.detach() for name, tensor in [*weights.items(), *_kept_buffers(model)]}


def seed_of(seed: int, rank: int, step: int = 0) -> int:
    """The seed of one process: the run's seed in process 0 at step 0, else drawn from seed, rank and step.

    Example:
        >>> seed_of(7, 0), seed_of(7, 1) != seed_of(7, 2)
        (7, True)
    """
    return seed if (rank, step) == (0, 0) else int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0])


def random_state() -> dict[str, Any]:
    """The state of every random generator this process may use."""
    version, keys, gauss = random.getstate()
    bits: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - third-party code may still draw from the global generator
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [version, list(keys), gauss],
        "numpy": [torch.from_numpy(bits["state"]["key"].astype(np.int64)), int(bits["state"]["pos"])],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore every random generator from a value of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    key, position = state["numpy"]
    words = key.numpy().astype(np.uint32)
    np.random.set_state({"bit_generator": "MT19937", "state": {"key": words, "pos": position}})  # noqa: NPY002


def _uncompiled_name(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield _uncompiled_name(f"{prefix}.{name}" if prefix else name), buffer


def _callback_states(callbacks: Sequence[Callback]) -> list[list[Any]]:
    return [[type(callback).__name__, callback.state()] for callback in callbacks]


def _restore_callbacks(callbacks: Sequence[Callback], states: list[list[Any]]) -> None:
    """Restore callbacks by class and order, so that a forced resume may have other callbacks."""
    left = list(states)
    for callback in callbacks:
        entry = next((candidate for candidate in left if candidate[0] == type(callback).__name__), None)
        if entry is not None:
            left.remove(entry)
            callback.restore(entry[1])


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {weights: _uncompiled_name(name) for name, weights in model.named_parameters()}


def _optimizer_state(learner: Run | Learner) -> dict[str, Any]:
    """The optimizer's state by names of weights instead of list positions, so that it fits any sharding.

    torch's own `get_optimizer_state_dict` would take a step with an optimizer that has taken none.
    """
    names, optimizer = _names(learner.model), learner.optimizer
    return {
        "class": type(optimizer).__name__,
        "groups": [
            {**group, "params": [names[index] for index in group["params"]]} for group in optimizer.param_groups
        ],
        "state": {names[weights]: dict(values) for weights, values in optimizer.state.items()},
    }


def _restore_optimizer(learner: Run | Learner, saved: Mapping[str, Any]) -> None:
    places = {name: index for index, name in enumerate(name for group in saved["groups"] for name in group["params"])}
    groups = [{**group, "params": [places[name] for name in group["params"]]} for group in saved["groups"]]
    state = {places[name]: values for name, values in saved["state"].items()}
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})


@dataclass
class _Targets:
    """The target of each tensor in a checkpoint, sharded like this run's own tensors, whatever the sharding on disk."""

    run: Run
    weights: dict[str, Tensor] = field(init=False)
    critics: dict[str, Tensor] = field(init=False)
    others: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = trained_weights(self.run.model)
        self.critics = {} if self.run.critic is None else trained_weights(self.run.critic.model)
        self.others = lift({"callbacks": _callback_states(self.run.callbacks)})[1]

    def __call__(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        part, _, rest = name.partition("/")
        weights = self.weights
        if part == "critic":
            weights, (part, _, rest) = self.critics, rest.partition("/")
        if part == "model" and rest in weights:
            return weights[rest]  # read in place: no second copy in memory
        like = self.others.get(name)
        if part == "optimizer":
            like = weights.get(rest.split("/")[1])
        if like is None:
            return torch.empty(shape, dtype=dtype)
        if like.shape == shape:
            return torch.empty_like(like, dtype=dtype)
        if isinstance(like, DTensor):  # the factors of Adafactor: small, and the same everywhere
            return empty_sharded(shape, dtype=dtype, device_mesh=like.device_mesh, placements=[Replicate()])
        return torch.empty(shape, dtype=dtype, device=like.device)
