"""Keys that are converted one by one: by the table of other tools' words, or by a rule of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.errors import ConfigError
from exptilt.settings.other_tools import WORDS, word_for

Rule = Callable[[Draft, str, Any], None]

_OFF: tuple[Any, ...] = (False, None, "no", "none", "None", "", [], {}, "false")


def to(ours: str, values: Mapping[Any, Any] | None = None, because: str = "") -> Rule:
    """The value, or what it is called here, under a key of ours."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if values is None:
            draft.use(ours, value, key, because=because)
        elif value in values:
            draft.use(ours, values[value], key, because=because)
        else:
            draft.refuse(f"{ours} has no {value!r}", key)

    return rule


def flag(ours: str, value: Any, because: str = "") -> Rule:
    """A switch: on sets a key of ours, off is our default."""

    def rule(draft: Draft, key: str, given: Any) -> None:
        if given in _OFF:
            draft.as_default("off here as well", key)
        else:
            draft.use(ours, value, key, because=because)

    return rule


def free(says: str) -> Rule:
    """A key on which nothing here depends."""
    return lambda draft, key, _: draft.no_effect(says, key)


def only_if_off(says: str) -> Rule:
    """A switch that has no counterpart: off is fine."""

    def rule(draft: Draft, key: str, given: Any) -> None:
        if given in _OFF or given == 0:
            draft.as_default("off here as well", key)
        else:
            draft.refuse(says, key)

    return rule


def number(ours: str, because: str = "") -> Rule:
    """A number, also where it is written as text."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        try:
            draft.use(ours, float(value), key, because=because)
        except (TypeError, ValueError):
            raise ConfigError(f"{key}: {value!r} is no number") from None

    return rule


def _positive_steps(ours: str) -> Rule:
    """A number of steps; -1, 0 and null stand for none."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if not isinstance(value, int | float) or value <= 0:
            draft.as_default("no limit here as well", key)
        elif value < 1:
            draft.refuse("a share of all steps; set the number of steps", key)
        else:
            draft.use(ours, int(value), key)

    return rule


def _warmup(draft: Draft, key: str, value: Any) -> None:
    steps, most = float(value or 0), draft.get("max_steps", default=0)
    if not steps:
        draft.as_default("no warm-up there; optim.warmup_ratio says what it is here", key)
    elif steps < 1:
        draft.use("optim.warmup_ratio", steps, key)
    elif isinstance(most, int) and most > steps:
        draft.use("optim.warmup_ratio", round(steps / most, 6), key, because=f"{steps:.0f} of {most} steps")
    else:
        draft.refuse("a number of steps; set optim.warmup_ratio, a share of all steps", key)


def _strategy(draft: Draft, key: str, value: Any) -> None:
    if value in ("no", False, "off"):
        draft.as_default("only at the start and at the end here as well", key)
    elif value == "steps":
        draft.no_effect("the number of steps says it", key)
    else:
        draft.refuse("once per epoch; set the number of steps", key)


def _schedule(draft: Draft, key: str, value: Any) -> None:
    kept = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
    to("optim.schedule", kept)(draft, key, value)


def _optimizer(draft: Draft, key: str, value: Any) -> None:
    name = str(value).lower()
    ours = "adamw_8bit" if "8bit" in name else next((n for n in ("adafactor", "rmsprop") if n in name), "adamw")
    if "adam" in name or ours != "adamw":
        draft.use("optim.name", ours, key)
    else:
        draft.refuse(f"optim.name has no {value!r}", key)


def _trackers(draft: Draft, key: str, value: Any) -> None:
    names = [name for name in ([value] if isinstance(value, str) else value or []) if name not in ("none", "all")]
    if names:
        draft.use("train.report_to", names, key)
    else:
        draft.as_default("none here as well", key)


def _dtype(draft: Draft, key: str, value: Any) -> None:
    kept = {"auto": "auto", "float32": "float32", "bfloat16": "bfloat16", "fp32": "float32", "bf16": "bfloat16"}
    to("model.dtype", kept, "trained weights stay float32 all the same")(
        draft, key, str(value).strip("`").split(".")[-1]
    )


def _half(draft: Draft, key: str, value: Any) -> None:
    if value == "auto":
        draft.as_default("auto here as well", key)
    else:
        flag("train.precision", "bfloat16")(draft, key, value)


def _modules(draft: Draft, key: str, value: Any) -> None:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value or [])
    if not names:
        draft.as_default("none here as well", key)
    else:
        draft.use("adapter.modules_to_save", names, key)


_PROGRESS = free("what is written while a run goes on")
_FILES = free("prepared rows are kept by content by themselves")
_SPEED = free("the engine decides how rows are computed; no result depends on it")
_NO_PAD = free("rows are packed, so nothing is padded")


def _template(draft: Draft, key: str, value: Any) -> None:
    if value in ("tokenizer_default", "default", "auto", None):
        draft.as_default("the tokenizer's own template here as well", key)
    elif str(value) in _OUR_TEMPLATES:
        draft.use("data.chat_template", str(value), key)
    else:
        draft.no_effect("the tokenizer's own template is used; `exptilt doctor` shows rows as they are read", key)


_OUR_TEMPLATES = ("gemma", "mistral", "phi3", "qwen3")

RULES: Mapping[str, Rule] = {
    "learning_rate": number("optim.learning_rate"),
    "lr": number("optim.learning_rate"),
    "weight_decay": number("optim.weight_decay", "norms and biases never decay here"),
    "max_grad_norm": number("optim.max_grad_norm"),
    "gradient_clipping": number("optim.max_grad_norm"),
    "num_train_epochs": number("train.epochs"),
    "num_epochs": number("train.epochs"),
    "max_steps": _positive_steps("train.max_steps"),
    "warmup_ratio": number("optim.warmup_ratio"),
    "warmup_steps": _warmup,
    "num_warmup_steps": _warmup,
    "seed": to("seed", because="other streams: equal seeds draw other rows"),
    "random_state": free("the seed of an adapter is that of the run"),
    "data_seed": free("the order of rows follows seed"),
    "lr_scheduler": _schedule,
    "lr_scheduler_type": _schedule,
    "optim": _optimizer,
    "optimizer": _optimizer,
    "report_to": _trackers,
    "template": _template,
    "chat_template": _template,
    "chat_template_path": to("data.chat_template"),
    "model_type": free("config.json of the model says it"),
    "tokenizer_type": free("config.json of the model says it"),
    "is_llama_derived_model": free("config.json of the model says it"),
    "resume_from_checkpoint": free("a run goes on by itself when its command is given again"),
    "auto_resume_from_checkpoints": free("a run goes on by itself when its command is given again"),
    "evals_per_epoch": only_if_off("set train.eval_every, in steps"),
    "saves_per_epoch": only_if_off("set train.save_every, in steps"),
    "wandb_project": flag("train.report_to", ["wandb"], "the project is named by WANDB_PROJECT"),
    "wandb_entity": _PROGRESS,
    "wandb_watch": _PROGRESS,
    "wandb_name": _PROGRESS,
    "wandb_run_id": _PROGRESS,
    "wandb_log_model": _PROGRESS,
    "train_on_inputs": only_if_off("prompts are never trained on"),
    "eval_sample_packing": _SPEED,
    "run_name": _PROGRESS,
    "logging_dir": _PROGRESS,
    "logging_first_step": _PROGRESS,
    "logging_strategy": _strategy,
    "log_level": _PROGRESS,
    "plot_loss": free("the report draws every curve"),
    "debug": _PROGRESS,
    "strict": _PROGRESS,
    "save_safetensors": free("weights are always safetensors"),
    "save_only_model": free("checkpoints hold all that a resume needs"),
    "save_strategy": _strategy,
    "eval_strategy": _strategy,
    "evaluation_strategy": _strategy,
    "save_steps": _positive_steps("train.save_every"),
    "eval_steps": _positive_steps("train.eval_every"),
    "logging_steps": _positive_steps("train.log_every"),
    "torch_dtype": _dtype,
    "dtype": _dtype,
    "bf16": _half,
    "fp16": only_if_off("half precision with loss scaling is not there; use train.precision=bfloat16"),
    "tf32": _SPEED,
    "gradient_checkpointing": flag("train.gradient_checkpointing", True),
    "use_gradient_checkpointing": flag("train.gradient_checkpointing", True),
    "gradient_checkpointing_kwargs": _SPEED,
    "torch_compile": flag("train.compile", True),
    "load_in_4bit": flag("model.quantize", "nf4"),
    "load_in_8bit": only_if_off("model.quantize has 4 bits only"),
    "bnb_4bit_quant_type": to("model.quantize", {"nf4": "nf4"}),
    "trust_remote_code": flag("model.trust_remote_code", True),
    "model_revision": to("model.revision"),
    "lora_modules_to_save": _modules,
    "modules_to_save": _modules,
    "additional_target": _modules,
    "use_dora": flag("adapter.dora", True),
    "peft_use_dora": flag("adapter.dora", True),
    "use_rslora": only_if_off("updates are scaled by alpha / rank, not by its square root; set adapter.alpha"),
    "peft_use_rslora": only_if_off("updates are scaled by alpha / rank, not by its square root; set adapter.alpha"),
    "bias": only_if_off("biases are not trained beside an adapter"),
    "task_type": free("the objective says it"),
    "lora_task_type": free("the objective says it"),
    "disable_dropout": free("model.dropout is 0 by default"),
    "push_to_hub": only_if_off("afterwards: exptilt export RUN --push OWNER/NAME"),
    "hub_model_id": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "hub_private_repo": free("afterwards: exptilt export RUN --push OWNER/NAME --private"),
    "overwrite_output_dir": free("an earlier run is moved aside, never replaced"),
    "overwrite_cache": _FILES,
    "dataset_prepared_path": _FILES,
    "preprocessing_num_workers": to("data.workers"),
    "dataset_num_proc": to("data.workers"),
    "dataset_processes": to("data.workers"),
    "dataloader_num_workers": free("rows are tokenised before step 1"),
    "dataloader_pin_memory": _SPEED,
    "dataloader_drop_last": free("a short last batch is a step like others"),
    "ddp_timeout": _SPEED,
    "ddp_find_unused_parameters": _SPEED,
    "group_by_length": _SPEED,
    "attn_implementation": _SPEED,
    "flash_attention": _SPEED,
    "flash_attn": _SPEED,
    "sdp_attention": _SPEED,
    "use_unsloth": _SPEED,
    "pad_to_sequence_len": _NO_PAD,
    "pad_to_multiple_of": _NO_PAD,
    "padding_free": _NO_PAD,
    "padding_value": _NO_PAD,
    "label_pad_token_id": _NO_PAD,
    "pad_token": _NO_PAD,
    "remove_unused_columns": free("columns that are not read are named, and stop a run where they look important"),
    "do_eval": free("held-out rows are measured wherever there are any"),
    "is_preference_dataset": free("the format of rows says it"),
    "precompute_ref_log_probs": free("the reference is always scored once, before step 1"),
    "precompute_ref_batch_size": free("the reference is always scored once, before step 1"),
    "model_init_kwargs": only_if_off("set the keys of model one by one"),
    "trainer": free("the objective says it"),
    "compute_environment": _PROGRESS,
    "local_rank": free("torchrun says it"),
    "special_tokens": only_if_off("the tokenizer's own tokens are used; see model.resize_embeddings for new ones"),
    "generate_during_eval": flag("train.eval_samples", 16),
    "do_train": free("`exptilt train` trains"),
}


def convert_single_keys(draft: Draft) -> None:
    """Decide the fate of every key that no rule for several keys has taken; an unknown key is refused by name."""
    for key in draft.open_keys():
        value = draft.source[key]
        rule = RULES.get(key) or _rule_of_word(key)
        if value is None:
            draft.as_default("not set", key)
        elif rule is None and key.startswith("no_") and key[3:] in RULES:
            draft.as_default("off", key)
        elif rule is not None:
            rule(draft, key, value)
        elif value in _OFF:
            draft.as_default("off, and unknown here", key)
        else:
            draft.refuse("unknown here; whether a run differs for it is not known", key)


def _rule_of_word(key: str) -> Rule | None:
    if key.lower() not in WORDS:
        return None
    word = word_for(key)
    if word is None or not word.ours or word.ours.startswith("exptilt"):
        return None if word is None else free(word.note or word.ours)
    ours, equals, value = word.ours.partition("=")
    return flag(ours, value, word.note) if equals else to(ours, because=word.note)
