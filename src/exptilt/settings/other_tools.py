"""Words of other tools, and what they are called here: TRL, transformers, peft, Axolotl, LLaMA-Factory, Unsloth, OpenRLHF, torchtune.

A key that a recipe does not know is looked up here before anything is guessed. `docs/from_other_tools.md` prints the table (`make docs`),
and a test compares every key on the right with the keys of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Word:
    """What stands in the place of another tool's key."""

    ours: str
    """Our key, our key and value (`train.precision=bfloat16`), or a command; empty where there is nothing to set."""
    note: str = ""
    """What differs in meaning; empty where nothing does."""


_BATCH = "rows of one optimizer step, over all processes; no result depends on how they are split"
_SPLIT = "batch.size is per-device size x accumulation x processes; batch.tokens bounds one forward pass"
_LENGTH = "tokens of prompt and completion together; data.on_too_long says what happens to longer rows"

WORDS: Mapping[str, Word] = {
    # where things are
    "model_name_or_path": Word("model.path"),
    "model_name": Word("model.path"),
    "base_model": Word("model.path"),
    "pretrain": Word("model.path"),
    "model_revision": Word("model.revision"),
    "base_model_revision": Word("model.revision"),
    "tokenizer_name_or_path": Word("model.tokenizer"),
    "tokenizer_config": Word("model.tokenizer"),
    "torch_dtype": Word("model.dtype"),
    "load_in_4bit": Word("model.quantize=nf4", "needs an adapter"),
    "quantization_bit": Word("model.quantize=nf4", "needs an adapter"),
    "output_dir": Word("output"),
    "save_path": Word("output"),
    "ref_model": Word("reference.model", "by default the weights that training starts from"),
    "ref_model_name_or_path": Word("reference.model", "by default the weights that training starts from"),
    "adapter_name_or_path": Word("adapter.path"),
    "lora_model_dir": Word("adapter.path"),
    "resume_from_checkpoint": Word("train.resume", "a run goes on by itself when its command is given again"),
    "overwrite_output_dir": Word("train.resume=never", "the earlier run is moved aside, never replaced"),
    "push_to_hub": Word("exptilt export RUN --push OWNER/NAME"),
    "hub_model_id": Word("exptilt export RUN --push OWNER/NAME"),
    # rows
    "dataset": Word("data.train"),
    "datasets": Word("data.train", "a list of paths, or of sources with weights"),
    "dataset_name": Word("data.train"),
    "train_dataset": Word("data.train"),
    "dataset_dir": Word("data.train"),
    "eval_dataset": Word("data.test"),
    "test_datasets": Word("data.test"),
    "dataset_config": Word("data.subset"),
    "dataset_train_split": Word("data.split"),
    "dataset_test_split": Word("data.test_split"),
    "val_size": Word("data.test_fraction", "a share of prompts, not of rows"),
    "val_set_size": Word("data.test_fraction", "a share of prompts, not of rows"),
    "max_samples": Word("data.limit"),
    "max_length": Word("data.max_tokens", _LENGTH),
    "max_seq_length": Word("data.max_tokens", _LENGTH),
    "max_len": Word("data.max_tokens", _LENGTH),
    "sequence_len": Word("data.max_tokens", _LENGTH),
    "cutoff_len": Word("data.max_tokens", _LENGTH),
    "max_prompt_length": Word(
        "data.max_tokens", "there is one limit; data.on_too_long=trim_prompt_start trims prompts"
    ),
    "max_completion_length": Word("data.max_tokens", _LENGTH),
    "truncation_mode": Word("data.on_too_long", "keep_end is trim_prompt_start; completions are never cut in silence"),
    "dataset_num_proc": Word("data.workers"),
    "preprocessing_num_workers": Word("data.workers"),
    "dataloader_num_workers": Word("data.workers", "rows are tokenised before step 1"),
    "chat_template_path": Word("data.chat_template"),
    "apply_chat_template": Word("data.template"),
    "label_pad_token_id": Word("", "completions are counted by position, so no label is padded"),
    "padding_value": Word("", "rows are packed, so nothing is padded"),
    "padding_free": Word("", "rows are always packed"),
    "packing": Word("", "rows are always packed, and do not see each other"),
    "sample_packing": Word("", "rows are always packed, and do not see each other"),
    "pad_token": Word("", "rows are packed, so nothing is padded"),
    # objective
    "loss_type": Word("loss"),
    "rl": Word("loss"),
    "pref_loss": Word("loss"),
    "dpo_loss_type": Word("loss"),
    "stage": Word("loss"),
    "pref_beta": Word("loss.beta"),
    "dpo_beta": Word("loss.beta"),
    "rl_beta": Word("loss.beta"),
    "kto_beta": Word("loss.beta"),
    "orpo_alpha": Word("loss.lam", "of loss: orpo"),
    "simpo_gamma": Word("loss.gamma", "of loss: simpo"),
    "cpo_alpha": Word("loss.nll_weight", "of loss: cpo"),
    "dpo_label_smoothing": Word("loss.label_smoothing"),
    "ld_alpha": Word("loss.alpha", "of loss: ld_dpo"),
    "f_divergence_type": Word("loss", "f_dpo has the divergences"),
    "rpo_alpha": Word("loss", "a mixture of dpo and sft: see `exptilt config loss.mixture`"),
    "pref_ftx": Word("loss", "a mixture of dpo and sft: see `exptilt config loss.mixture`"),
    "nll_loss_coef": Word("loss", "a mixture of dpo and sft: see `exptilt config loss.mixture`"),
    "use_weighting": Word("loss", "wpo weighs pairs by the policy"),
    "dpo_use_weighting": Word("loss", "wpo weighs pairs by the policy"),
    "kto_desirable_weight": Word("loss.desirable_weight"),
    "kto_chosen_weight": Word("loss.desirable_weight"),
    "kto_undesirable_weight": Word("loss.undesirable_weight"),
    "kto_rejected_weight": Word("loss.undesirable_weight"),
    "reference_free": Word("loss", "simpo, cpo and orpo need no reference"),
    "sync_ref_model": Word("reference.move_every"),
    "ref_model_sync_steps": Word("reference.move_every"),
    "ref_model_mixup_alpha": Word("reference.mix"),
    "precompute_ref_log_probs": Word("reference.cache", "the reference is always scored once, before step 1"),
    # weights that are trained
    "use_peft": Word("adapter={}", "or adapter.rank=16"),
    "peft_config": Word("adapter={}", "or adapter.rank=16"),
    "finetuning_type": Word("adapter={}", "full trains all weights, which is the default"),
    "r": Word("adapter.rank"),
    "lora_r": Word("adapter.rank"),
    "lora_rank": Word("adapter.rank"),
    "lora_alpha": Word("adapter.alpha"),
    "lora_dropout": Word("adapter.dropout"),
    "lora_target": Word("adapter.targets"),
    "lora_target_modules": Word("adapter.targets"),
    "lora_target_linear": Word("adapter.targets=all-linear"),
    "target_modules": Word("adapter.targets"),
    "lora_modules_to_save": Word("adapter.modules_to_save"),
    "additional_target": Word("adapter.modules_to_save"),
    "use_dora": Word("adapter.dora"),
    "peft_use_dora": Word("adapter.dora"),
    "disable_dropout": Word("model.dropout", "0 by default"),
    # steps
    "lr": Word("optim.learning_rate"),
    "actor_learning_rate": Word("optim.learning_rate"),
    "optimizer": Word("optim.name"),
    "adam_beta1": Word("optim.beta1"),
    "adam_beta2": Word("optim.beta2"),
    "adam_epsilon": Word("optim.eps"),
    "lr_scheduler": Word("optim.schedule"),
    "lr_scheduler_type": Word("optim.schedule"),
    "num_warmup_steps": Word("optim.warmup_steps"),
    "lr_scheduler_kwargs": Word("optim.schedule_args"),
    "gradient_clipping": Word("optim.max_grad_norm"),
    "max_norm": Word("optim.max_grad_norm"),
    "weight_decay_rate": Word("optim.weight_decay"),
    "num_train_epochs": Word("train.epochs"),
    "num_epochs": Word("train.epochs"),
    "max_epochs": Word("train.epochs"),
    "per_device_train_batch_size": Word("batch.size", _SPLIT),
    "micro_batch_size": Word("batch.tokens", _SPLIT),
    "micro_train_batch_size": Word("batch.tokens", _SPLIT),
    "per_device_eval_batch_size": Word("batch.tokens", _SPLIT),
    "gradient_accumulation_steps": Word("batch.size", _SPLIT),
    "train_batch_size": Word("batch.size", _BATCH),
    "batch_size": Word("batch.size", _BATCH),
    "bf16": Word("train.precision=bfloat16"),
    "fp16": Word("train.precision=bfloat16", "half precision with loss scaling is not there"),
    "tf32": Word("train.precision", "matrix products follow the precision"),
    "use_gradient_checkpointing": Word("train.gradient_checkpointing"),
    "torch_compile": Word("train.compile"),
    "logging_steps": Word("train.log_every"),
    "eval_steps": Word("train.eval_every"),
    "eval_strategy": Word("train.eval_every"),
    "evaluation_strategy": Word("train.eval_every"),
    "evals_per_epoch": Word("train.eval_every", "in steps"),
    "save_steps": Word("train.save_every"),
    "save_strategy": Word("train.save_every"),
    "saves_per_epoch": Word("train.save_every", "in steps"),
    "save_total_limit": Word("train.keep_checkpoints"),
    "load_best_model_at_end": Word('train.best="min eval/loss"', "needs train.eval_every"),
    "metric_for_best_model": Word('train.best="min eval/loss"', "needs train.eval_every"),
    "early_stopping_patience": Word("train.patience"),
    "wandb_project": Word("train.report_to=wandb", "the project is named by WANDB_PROJECT"),
    "use_wandb": Word("train.report_to=wandb"),
    "fsdp": Word("parallel.kind=fsdp"),
    "fsdp_config": Word("parallel.kind=fsdp"),
    "deepspeed": Word("parallel.kind=fsdp", "in the place of ZeRO-3; ZeRO-1 and 2 have no counterpart"),
    "ddp": Word("parallel.kind=ddp"),
    "flash_attention": Word("", "the engine chooses the attention; see docs/engine.md"),
    "attn_implementation": Word("", "the engine chooses the attention; see docs/engine.md"),
    "use_unsloth": Word("", "the engine replaces it; see docs/engine.md"),
    "group_by_length": Word("", "rows of a step are always grouped by length; the step's rows stay drawn by chance"),
    "remove_unused_columns": Word("data.ignore_columns"),
    "generate_during_eval": Word("train.eval_samples"),
}
"""By the key's last part, in small letters."""

LOSS_TYPES: Mapping[str, str] = {
    "sigmoid": "dpo",
    "hinge": "hinge",
    "robust": "robust_dpo",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "bco_pair": "bco",
    "kto_pair": "kto",
    "sppo_hard": "sppo_hard",
    "aot_pair": "aot",
    "aot_unpaired": "aot",
    "sigmoid_norm": "length_normalized_dpo",
    "rm": "bradley_terry",
}
"""Values of another tool's key for the loss, by name; other names are the same here, or are unknown."""


def word_for(key: str, value: Any = None) -> Word | None:
    """Our word for another tool's key.

    Args:
        key: the last part of a dotted key; case, hyphens and underscores make no difference.
        value: what was to be set; it decides where the key names a loss.

    Example:
        >>> word_for("num-train-epochs").ours, word_for("loss_type", "sigmoid").ours
        ('train.epochs', 'loss=dpo')
    """
    word = WORDS.get(key.lower().replace("-", "_").lstrip("_"))
    if word is None or word.ours != "loss" or word.note or not isinstance(value, str):
        return word
    return Word(f"loss={LOSS_TYPES.get(value.lower(), value.lower())}")


def page() -> str:
    """The table as a page of the documentation."""
    rows = [f"| `{key}` | {f'`{word.ours}`' if word.ours else '-'} | {word.note} |" for key, word in WORDS.items()]
    values = [f"| `{theirs}` | `{ours}` |" for theirs, ours in LOSS_TYPES.items()]
    return "\n".join(
        [
            "# Words of other tools",
            "",
            "What keys of TRL, transformers, peft, Axolotl, LLaMA-Factory, Unsloth, OpenRLHF and torchtune are called here. `exptilt`",
            "answers such a key with ours. This page is made by `make docs` from `settings/other_tools.py`.",
            "",
            "| there | here | what differs |",
            "|---|---|---|",
            *rows,
            "",
            "Values of `loss_type`, `pref_loss`, `rl` and `stage` that have another name here:",
            "",
            "| there | here |",
            "|---|---|",
            *values,
            "",
        ]
    )


if __name__ == "__main__":
    Path("docs/from_other_tools.md").write_text(page(), encoding="utf-8")
