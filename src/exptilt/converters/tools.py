"""The tools whose configurations are converted: how each is told, and its defaults that differ from ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tool:
    """A tool whose configurations people have."""

    name: str
    marks: tuple[str, ...]
    """Keys that only this tool has; the tool with most of them in a file is the file's."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What holds there where the file says nothing, by that tool's own keys, as far as it is not our default."""


_TRANSFORMERS = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "seed": 42,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
}

ACCELERATE = Tool("accelerate", ("compute_environment", "distributed_type", "num_processes", "machine_rank"))
DEEPSPEED = Tool("DeepSpeed", ("zero_optimization", "train_micro_batch_size_per_gpu", "zero_allow_untested_optimizer"))
LLAMA_FACTORY = Tool(
    "LLaMA-Factory",
    ("stage", "finetuning_type", "cutoff_len", "dataset_dir", "pref_loss", "pref_beta", "lora_rank", "template"),
    # hparams/*.py at commit ff6d4d1
    {**_TRANSFORMERS, "learning_rate": 5e-5, "cutoff_len": 2048, "finetuning_type": "lora", "pref_loss": "sigmoid"},
)
AXOLOTL = Tool(
    "Axolotl",
    ("base_model", "sequence_len", "micro_batch_size", "val_set_size", "sample_packing", "dataset_prepared_path", "rl"),
    # docs/config-reference at commit 067b021
    {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 1.0, "lr_scheduler": "cosine"},
)
ALIGNMENT_HANDBOOK = Tool(
    "alignment-handbook",
    ("dataset_mixer", "dataset_splits", "dataset_mixture", "auto_insert_empty_system_msg"),
    {**_TRANSFORMERS, "learning_rate": 1e-6, "max_length": 1024},
)
UNSLOTH = Tool(
    "Unsloth",
    ("max_seq_length", "use_gradient_checkpointing", "load_in_4bit", "random_state", "trainer"),
    {**_TRANSFORMERS, "learning_rate": 1e-6},
)
TRL = Tool(
    "TRL",
    ("loss_type", "model_name_or_path", "dataset_name", "per_device_train_batch_size", "max_prompt_length", "use_peft"),
    # DPOConfig of TRL 1.16
    {
        **_TRANSFORMERS,
        "learning_rate": 1e-6,
        "max_length": 1024,
        "truncation_mode": "keep_start",
        "dataset_test_split": "test",
    },
)
_RATES = {"KTO": 1e-6, "Reward": 1e-4, "SFT": 2e-5}
_OF_TRAINERS: Mapping[str, Mapping[str, Any]] = {
    "KTO": {"train_sampling_strategy": "sequential"},
    "CPO": {"cpo_alpha": 1.0, "simpo_gamma": 0.5, "alpha": 0.0},
}


def defaults_of_trainer(kind: str, stated: Collection[str]) -> dict[str, Any]:
    """What holds in a configuration of TRL 1.16 that says nothing, where another keyword does not say it.

    Args:
        kind: `DPO` of `DPOConfig`.
        stated: keywords that it does say.

    Example:
        >>> defaults_of_trainer("SFT", ["learning_rate"])["max_length"], defaults_of_trainer("SFT", ())["learning_rate"]
        (1024, 2e-05)
    """
    defaults = {
        **{key: value for key, value in _TRANSFORMERS.items() if key != "warmup_ratio"},
        "warmup_steps": 0,
        "learning_rate": _RATES.get(kind, 1e-6),
        "max_length": 1024,
        "truncation_mode": "keep_start",
        "logging_steps": 10,
        "save_steps": 500,
        "save_strategy": "steps",
        "eval_strategy": "no",
        **_OF_TRAINERS.get(kind, {}),
    }
    for key, others in _SAID_BY.items():
        if any(other in stated for other in others):
            del defaults[key]
    return {key: value for key, value in defaults.items() if key not in stated}


_SAID_BY = {
    "warmup_steps": ("warmup_ratio",),
    "max_length": ("max_seq_length",),
    "eval_strategy": ("evaluation_strategy",),
    "per_device_train_batch_size": ("per_gpu_train_batch_size",),
}
"""Keywords that say what another one says."""
TOOLS = (ALIGNMENT_HANDBOOK, AXOLOTL, LLAMA_FACTORY, TRL, UNSLOTH, ACCELERATE, DEEPSPEED)
"""Of tools with equally many marks in a file the first is meant: alignment-handbook's files hold TRL's keys as well."""


def tool_of(source: Mapping[str, Any]) -> Tool | None:
    """The tool whose keys a configuration has most of; None where it has none of any."""
    counts = {tool.name: sum(mark in source for mark in tool.marks) for tool in TOOLS}
    best = max(TOOLS, key=lambda tool: counts[tool.name])
    return best if counts[best.name] else None
