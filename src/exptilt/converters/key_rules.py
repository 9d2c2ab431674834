"""What becomes of every key that is converted by itself: the rules by key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.converters.rule_kinds import OFF, Rule, flag, free, number, only_if_off, to


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


def _bf16(draft: Draft, key: str, value: Any) -> None:
    if value in (None, "auto"):
        draft.as_default("auto here as well", key)
    elif value not in OFF:
        draft.use("train.precision", "bfloat16", key)
    elif draft.get("fp16") in OFF:
        draft.use("train.precision", "float32", key)
    else:
        draft.no_effect("fp16 says it", key)


def _clip(draft: Draft, key: str, value: Any) -> None:
    if value == 0:
        draft.use("optim.max_grad_norm", math.inf, key, because="0 is no clipping there")
    else:
        number("optim.max_grad_norm")(draft, key, value)


def _dropout(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.as_default("model.dropout is 0 by default", key)
    else:
        draft.use("model.dropout", None, key, because="the model keeps its own rates")


def _sampling(draft: Draft, key: str, value: Any) -> None:
    kind = str(getattr(value, "value", value))
    if kind == "sequential":
        draft.use("batch.shuffle", False, key)
    elif kind == "random":
        draft.as_default("rows are drawn anew in every epoch here as well", key)
    else:
        draft.no_effect("rows of a step are computed by length anyway; the step's rows stay drawn by chance", key)


def _completion_only(draft: Draft, key: str, value: Any) -> None:
    if value is False:
        draft.refuse("prompts are never trained on; put prompt and completion into one column text", key)
    else:
        draft.as_default("only completions are trained on here as well", key)


def _text_field(draft: Draft, key: str, value: Any) -> None:
    if value == "text":
        draft.as_default("the column is called text here as well", key)
    else:
        draft.use("data.columns", {"text": value}, key)


def _assistant_only(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.as_default("only the assistant's turns are trained on here as well", key)
    else:
        draft.no_effect("of messages only the assistant's turns are trained on; there every token is", key)


def _packing(draft: Draft, key: str, value: Any) -> None:
    if value in OFF:
        draft.as_default("rows are computed packed all the same; a step has batch.size rows", key)
    else:
        draft.no_effect(
            "rows are computed packed and do not see each other; batch.size counts rows, not full sequences", key
        )


_OUR_TEMPLATES = ("gemma", "mistral", "phi3", "qwen3")

RULES: Mapping[str, Rule] = {
    "learning_rate": number("optim.learning_rate"),
    "lr": number("optim.learning_rate"),
    "weight_decay": number("optim.weight_decay", "norms and biases never decay here"),
    "max_grad_norm": _clip,
    "gradient_clipping": _clip,
    "num_train_epochs": number("train.epochs"),
    "num_epochs": number("train.epochs"),
    "seed": to("seed", because="other streams: equal seeds draw other rows"),
    "random_state": free("the seed of an adapter is that of the run"),
    "data_seed": free("the order of rows follows seed"),
    "optim_args": only_if_off("set optim.beta1, beta2 and eps"),
    "optim_target_modules": only_if_off("no optimizer here projects gradients"),
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
    "log_level": _PROGRESS,
    "plot_loss": free("the report draws every curve"),
    "debug": _PROGRESS,
    "strict": _PROGRESS,
    "save_safetensors": free("weights are always safetensors"),
    "save_only_model": free("checkpoints hold all that a resume needs"),
    "torch_dtype": _dtype,
    "dtype": _dtype,
    "bf16": _bf16,
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
    "use_rslora": only_if_off("no adapter is trained"),
    "peft_use_rslora": only_if_off("no adapter is trained"),
    "bias": only_if_off("biases are not trained beside an adapter"),
    "task_type": free("the objective says it"),
    "lora_task_type": free("the objective says it"),
    "disable_dropout": _dropout,
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
    "log_level_replica": _PROGRESS,
    "log_on_each_node": _PROGRESS,
    "logging_nan_inf_filter": _PROGRESS,
    "disable_tqdm": _PROGRESS,
    "project": _PROGRESS,
    "trackio_space_id": _PROGRESS,
    "trackio_bucket_id": _PROGRESS,
    "trackio_static_space_id": _PROGRESS,
    "include_tokens_per_second": _PROGRESS,
    "include_num_input_tokens_seen": _PROGRESS,
    "skip_memory_metrics": _PROGRESS,
    "save_on_each_node": _PROGRESS,
    "include_inputs_for_metrics": _PROGRESS,
    "include_for_metrics": _PROGRESS,
    "restore_callback_states_from_checkpoint": _PROGRESS,
    "enable_jit_checkpoint": _PROGRESS,
    "use_liger_kernel": _SPEED,
    "use_liger": _SPEED,
    "use_liger_loss": _SPEED,
    "liger_kernel_config": _SPEED,
    "use_logits_to_keep": _SPEED,
    "use_num_logits_to_keep": _SPEED,
    "activation_offloading": _SPEED,
    "activation_checkpointing": _SPEED,
    "activation_checkpointing_kwargs": _SPEED,
    "torch_compile_backend": _SPEED,
    "torch_compile_mode": _SPEED,
    "torchdynamo": _SPEED,
    "dataloader_prefetch_factor": _SPEED,
    "dataloader_persistent_workers": _SPEED,
    "dataloader_in_order": _SPEED,
    "dataloader_multiprocessing_context": _SPEED,
    "ddp_backend": _SPEED,
    "ddp_bucket_cap_mb": _SPEED,
    "ddp_broadcast_buffers": _SPEED,
    "ddp_static_graph": _SPEED,
    "torch_empty_cache_steps": _SPEED,
    "use_cache": _SPEED,
    "eval_accumulation_steps": _SPEED,
    "eval_do_concat_batches": _SPEED,
    "eval_use_gather_object": _SPEED,
    "batch_eval_metrics": _SPEED,
    "prediction_loss_only": _SPEED,
    "per_device_eval_batch_size": _SPEED,
    "bf16_full_eval": _SPEED,
    "fp16_full_eval": _SPEED,
    "half_precision_backend": _SPEED,
    "fp16_backend": _SPEED,
    "fp16_opt_level": _SPEED,
    "jit_mode_eval": _SPEED,
    "use_ipex": _SPEED,
    "xpu_backend": _SPEED,
    "ray_scope": _SPEED,
    "length_column_name": _SPEED,
    "use_legacy_prediction_loop": _SPEED,
    "dispatch_batches": _SPEED,
    "split_batches": _SPEED,
    "accelerator_config": _SPEED,
    "mp_parameters": _SPEED,
    "tpu_num_cores": _SPEED,
    "tpu_metrics_debug": _SPEED,
    "dataset_batch_size": _SPEED,
    "precompute_ref_eval_batch_size": _SPEED,
    "hub_strategy": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "hub_always_push": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "hub_revision": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "hub_token": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "push_to_hub_model_id": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "push_to_hub_organization": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "push_to_hub_token": free("afterwards: exptilt export RUN --push OWNER/NAME"),
    "train_sampling_strategy": _sampling,
    "shuffle_dataset": free("rows are drawn anew in every epoch"),
    "packing": _packing,
    "sample_packing": _packing,
    "packing_strategy": free("the engine packs rows so that no result depends on it"),
    "eval_packing": free("held-out rows are measured all at once"),
    "num_of_sequences": free("rows are computed packed and do not see each other"),
    "chars_per_token": free("rows are computed packed and do not see each other"),
    "auto_find_batch_size": flag("batch.tokens", "auto"),
    "average_tokens_across_devices": free("every mean is over the whole batch, over all processes"),
    "full_determinism": free("on a CPU a run with the same seed is bitwise the same anyway"),
    "use_cpu": free("the device that is there is used; CUDA_VISIBLE_DEVICES= hides a GPU"),
    "no_cuda": free("the device that is there is used; CUDA_VISIBLE_DEVICES= hides a GPU"),
    "use_mps_device": free("the device that is there is used"),
    "eval_on_start": free("held-out rows are always measured at the start"),
    "eval_delay": only_if_off("measurements begin at the start"),
    "do_predict": free("`exptilt evaluate` measures a model"),
    "ignore_data_skip": only_if_off("a resumed run always goes on with the rows that come next"),
    "past_index": only_if_off("no state is carried from row to row"),
    "label_names": only_if_off("the format of rows says what their label is"),
    "label_smoothing_factor": only_if_off("no label smoothing of tokens; label_smoothing is that of preferences"),
    "neftune_noise_alpha": only_if_off("no noise is added to embeddings"),
    "parallelism_config": only_if_off("parallel.kind is ddp or fsdp"),
    "fsdp_min_num_params": free("every block is a shard of its own"),
    "fsdp_transformer_layer_cls_to_wrap": free("every block is a shard of its own"),
    "sharded_ddp": only_if_off("set parallel.kind=fsdp"),
    "per_gpu_train_batch_size": only_if_off("set per_device_train_batch_size"),
    "per_gpu_eval_batch_size": _SPEED,
    "router_aux_loss_coef": only_if_off("the coefficient of the model's config is used (router_aux_loss_coef there)"),
    "is_encoder_decoder": only_if_off("only decoder models are trained"),
    "model_adapter_name": only_if_off("name the adapter's folder as adapter.path"),
    "ref_adapter_name": only_if_off("name the reference as reference.model, by its folder"),
    "force_use_ref_model": free("a reference model may always stand beside an adapter"),
    "base_model_attribute_name": free("the engine finds the base by itself"),
    "ref_model_init_kwargs": only_if_off("set reference.model; it is loaded as the model is"),
    "tools": only_if_off("give tools row by row, in the column tools"),
    "eos_token": only_if_off("set the tokenizer's own eos_token, so that what is saved knows it"),
    "dataset_kwargs": only_if_off("set the keys of data one by one"),
    "completion_only_loss": _completion_only,
    "assistant_only_loss": _assistant_only,
    "dataset_text_field": _text_field,
    "loss_weights": free("there is one loss"),
    "dpo_loss_weights": free("there is one loss"),
    "discopop_tau": free("only loss_type discopop has it, here as there"),
    "simpo_gamma": free("only loss_type simpo and alphapo have it, here as there"),
    "alpha": free("only loss_type alphapo has it, here as there"),
}
