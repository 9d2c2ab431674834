"""How a run trains: the settings of the loop and of the processes that share it."""

from __future__ import annotations

import re
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from exptilt.settings.declaration import config
from exptilt.settings.own_parts import OwnPart, OwnPartOf

_CALLBACK = OwnPartOf(
    "callback", ("on_start", "after_step", "on_metrics", "on_checkpoint", "on_end", "state", "restore")
)
AnyCallback = Annotated[OwnPart, _CALLBACK]
"""Type of a settings field that holds a callback of your own."""

ALARMS = ("below_uniform", "runaway", "no_gradient")
"""Dangers after which a model must not be used, by name."""
GUARD_RAILS = (
    *ALARMS,
    *("start", "contradiction", "repetition", "overshoot", "displacement", "drift", "flat", "gradient"),
    *("saturated", "overfitting", "kl", "entropy", "length"),
)
"""All dangers that a run is watched for."""
OF_TEXT_ALONE = ("below_uniform", "drift", "entropy", "length")
"""Dangers that a run on masks is not watched for: what they measure, masks do not have."""
PLAIN_SCHEDULES = ("linear", "cosine", "constant")
"""Schedules without settings of their own."""
Schedule = Literal[
    "linear",
    "cosine",
    "constant",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
"""Schedules by transformers' names; its `constant_with_warmup` is `constant`."""
_CONDITION = re.compile(r"\s*([\w/]+)\s*(<=|>=|==|<|>)\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*")
_BEST = re.compile(r"\s*(min|max)\s+([\w/]+)\s*")


@config
class TrainConfig:
    """How long to train, in which precision, and what to write on the way.

    Example:
        >>> TrainConfig(epochs=2, stop_if=("eval/kl > 30", "runaway")).dangers
        ('runaway',)
    """

    epochs: float = 1.0
    """Passes over the data, > 0; parts of a pass count."""
    max_steps: int | None = None
    """Stop after this many optimizer steps, if that comes first."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of forward and backward; auto: bfloat16 on a GPU, float32 on a CPU. Trained weights stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    compile: bool = False
    """Run the model's blocks through torch.compile; on a CPU up to a sixth faster, after 20 s and with a C++ compiler."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    report_to: tuple[str, ...] = ()
    """Trackers that get every line of metrics.jsonl as well, e.g. [tensorboard, wandb, trackio, mlflow]."""
    eval_every: int = 0
    """Steps between held-out evaluations; 0 evaluates at the start and at the end only."""
    eval_samples: int = 0
    """Held-out prompts that every evaluation samples one completion for: samples to read, length, and eval/kl."""
    save_every: int = 200
    """Steps between checkpoints; one is always written when the run is asked to stop."""
    save_async: bool = False
    """Write checkpoints in the background while training goes on; costs memory for one copy of the state."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep, >= 1."""
    best: str | None = None
    """Keep the weights that are best by a held-out metric as the model, e.g. "min eval/loss"; needs eval_every."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better `best`; 0 never stops early."""
    stop_if: tuple[str, ...] = ("loss > 1e6",)
    """What ends the run with an error: conditions on logged metrics ("eval/kl > 30", "grad_norm == 0"), names of guard rails
    ("runaway"), or "alarm" for every alarm."""
    callbacks: tuple[AnyCallback, ...] = ()
    """Callbacks of your own, e.g. [{import: "my_package.my_module:StopWhenLong", factor: 1.5}]; see docs/callbacks.md."""
    resume: Literal["auto", "never", "force"] = "auto"
    """auto goes on from the newest complete checkpoint of an equal recipe; never starts anew; force ignores changes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "callbacks", tuple(_callback(one) for one in self.callbacks))
        if not self.epochs > 0:
            raise ValueError(f"epochs must be > 0, got {self.epochs}")
        least = {"log_every": 1, "save_every": 1, "keep_checkpoints": 1, "max_steps": 1}
        for name, smallest in (least | {"eval_every": 0, "eval_samples": 0, "patience": 0}).items():
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise ValueError(f"{name} must be >= {smallest}, got {getattr(self, name)}")
        for condition in self.conditions:
            parse_condition(condition)
        if self.best is not None:
            parse_best(self.best)
            if not self.eval_every:
                raise ValueError("best needs eval_every > 0: a metric measured once has no best")
        if self.patience and self.best is None:
            raise ValueError('patience needs best, e.g. best: "min eval/loss"')

    @property
    def conditions(self) -> tuple[str, ...]:
        """The entries of `stop_if` that compare a metric with a number."""
        return tuple(entry for entry in self.stop_if if entry not in self.dangers)

    @property
    def dangers(self) -> tuple[str, ...]:
        """The entries of `stop_if` that name a guard rail, or `alarm`."""
        return tuple(entry for entry in self.stop_if if entry == "alarm" or entry in GUARD_RAILS)


def _callback(given: Any) -> OwnPart:
    """A callback of the recipe, or the object itself where Python code gives it."""
    return _CALLBACK.choose(given)


def parse_condition(text: str) -> tuple[str, str, float]:
    """Read "metric > number", with any of <, <=, ==, >= and >.

    Raises:
        ValueError: it is neither.

    Example:
        >>> parse_condition("eval/kl > 30")
        ('eval/kl', '>', 30.0)
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'stop_if reads "metric > number" (or <, <=, ==, >=), "alarm", or the name of a guard rail '
            f"({', '.join(GUARD_RAILS)}), got {text!r}"
        )
    name, sign, limit = match.groups()
    return name, sign, float(limit)


def parse_best(text: str) -> tuple[str, str]:
    """Read "min metric" or "max metric".

    Raises:
        ValueError: it is neither.

    Example:
        >>> parse_best("max eval/rewards/accuracies")
        ('max', 'eval/rewards/accuracies')
    """
    match = _BEST.fullmatch(text)
    if match is None:
        raise ValueError(f'best reads "min metric" or "max metric", e.g. "min eval/loss", got {text!r}')
    which, name = match.groups()
    if not name.startswith("eval/"):
        raise ValueError(f"best compares held-out metrics, which begin with eval/, got {name!r}")
    return which, name


@config
class ParallelConfig:
    """How the processes that torchrun (or SLURM, Ray) started share the work.

    Example:
        >>> ParallelConfig().resolved(8).kind
        'ddp'
    """

    kind: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    """none: one process; ddp: every process holds the model; fsdp: weights are sharded; auto: ddp if there are several."""
    cpu_offload: bool = False
    """fsdp only: keep weights, gradients and optimizer in main memory between uses."""

    def __post_init__(self) -> None:
        if self.cpu_offload and self.kind != "fsdp":
            raise ValueError("cpu_offload needs kind=fsdp")

    def resolved(self, num_processes: int) -> ParallelConfig:
        """These settings with `auto` resolved: ddp where there are several processes, none where there is one."""
        if self.kind != "auto":
            return self
        return replace(self, kind="ddp" if num_processes > 1 else "none")


@config
class OptimConfig:
    """How weights move.

    Example:
        >>> OptimConfig(learning_rate=5e-7).schedule
        'linear'
    """

    name: Literal["adamw", "adamw_8bit", "adafactor", "rmsprop"] = "adamw"
    """adamw; adamw_8bit: its state in a quarter of the memory (bitsandbytes); adafactor: hardly any state; rmsprop: as in
    the DPO paper's experiments."""
    learning_rate: float = 1e-6
    """Peak learning rate, > 0."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, embeddings among them (norms and biases never decay), >= 0; not for rmsprop."""
    beta1: float = 0.9
    """First-moment decay of adamw, in [0, 1)."""
    beta2: float = 0.999
    """Second-moment decay of adamw, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator, > 0; adafactor has its own."""
    schedule: Schedule = "linear"
    """What follows the warm-up: down to zero linearly, by a half cosine, or no decay; the others are transformers'."""
    schedule_args: dict[str, int | float | str] = field(default_factory=dict)
    """Settings of transformers' schedules, by its names: `{num_cycles: 2}`, `{min_lr_rate: 0.1}`, `{num_decay_steps: 50}`."""
    warmup_ratio: float = 0.1
    """Share of all steps spent rising to the peak, in [0, 1); with w such steps, step s has the rate (s + 1) / (w + 1) of it."""
    warmup_steps: int | None = None
    """Number of steps spent rising to the peak, in the place of warmup_ratio."""
    warmup_from_zero: bool = False
    """Rise as transformers does: step s has the rate s / w of the peak, so the first step moves nothing."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, > 0."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2", "warmup_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps}")
        if self.schedule_args and self.schedule in PLAIN_SCHEDULES:
            raise ValueError(f"schedule_args must be empty with schedule {self.schedule}, which has no settings")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if self.weight_decay and self.name == "rmsprop":
            raise ValueError(f"weight_decay must be 0 with rmsprop, which has none here, got {self.weight_decay}")
