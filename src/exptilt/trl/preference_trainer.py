"""What TRL's trainers have in common: objects and keywords in, a model trained in place out.

One class, and longer than others: it has every method that programs call on a trainer.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from transformers import TrainerState
from transformers.trainer_utils import TrainOutput

from exptilt.converters.trl_keywords import OBJECTS, keywords_of
from exptilt.disk import write_whole
from exptilt.errors import ConfigError, ModelError
from exptilt.in_memory import holding
from exptilt.policies.adapters import has_adapter
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.publish import publish
from exptilt.policies.saving import save_model
from exptilt.run_folder.folder import RunFolder
from exptilt.runs.run_recipe import run_recipe
from exptilt.trl.event_bridge import EventBridge, made
from exptilt.trl.given_objects import (
    DATASET,
    Processes,
    left_in_its_form,
    loaded_model,
    loaded_tokenizer,
    refuse_objects,
    refuse_overrides,
)
from exptilt.trl.given_rows import GivenRows, given_rows
from exptilt.trl.held_out_metrics import held_out_metrics
from exptilt.trl.saved_model import require_writable, take_best_weights, write_into_run
from exptilt.trl.trainer_configs import TrainerConfig, config_for, plain
from exptilt.trl.trainer_recipe import Parts, TrainerRecipe, recipe_for

logger = logging.getLogger(__name__)


class PreferenceTrainer:
    """A trainer of TRL's shape; `DPOTrainer` and the others say which.

    Everything is checked when it is made, before anything is trained: every keyword, every object, every method that a
    subclass overrides. `train` trains the given model in place. The run folder is `args.output_dir`: beside what TRL
    would write it holds config.yaml, metrics.jsonl, data.json and report.html.

    Raises:
        ExptiltError: a keyword or an object without a counterpart, by name and with what to set.
    """

    kind: ClassVar[str] = "DPO"
    config_class: ClassVar[type[TrainerConfig]] = TrainerConfig

    def __init__(
        self,
        model: Any = None,
        ref_model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **keywords: Any,
    ) -> None:
        refuse_overrides(type(self), PreferenceTrainer)
        config, objects = self._sorted(args, keywords)
        refuse_objects({**objects, "data_collator": data_collator, "ref_model": ref_model}, self.kind)
        if ref_model is not None and ref_model is model and not isinstance(model, str):
            raise ConfigError("ref_model: is the model itself; leave it out, or give another object")
        self.args = config
        self.is_in_train = False
        self.callbacks = made(objects.get("callbacks") or ())
        self.model = loaded_model(model, objects, config)
        tokenizer = processing_class if processing_class is not None else objects.get("tokenizer")
        self.processing_class = loaded_tokenizer(tokenizer, self.model)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.ref_model = ref_model
        self._peft_config, self._made_text = objects.get("peft_config"), objects.get("formatting_func")
        self.state = self._new_state()
        self._parts = self._parts_of(train_dataset, eval_dataset)
        self._start = recipe_for(config, self._parts)  # refused before anything is spent
        self._bridge: EventBridge | None = None
        self._say_once(self._start)
        self._fire("on_init_end")

    def _sorted(self, args: Any, keywords: Mapping[str, Any]) -> tuple[TrainerConfig, dict[str, Any]]:
        """The configuration with what a program of an older TRL gave beside it, and the objects."""
        given = dict(keywords)
        if isinstance(args, int | float) and not isinstance(args, bool):  # beta was the third until 0.8
            given["beta"], args = args, None
        objects = {name: given.pop(name) for name in list(given) if name in OBJECTS}
        config = config_for(self.config_class, args)
        known = keywords_of(self.kind)
        unknown = next((name for name in given if name not in known), None)
        if unknown is not None:
            alike = _alike(unknown, [*known, *OBJECTS])
            raise ConfigError(f"{self.kind}Trainer: no keyword {unknown!r}{alike}")
        for name, value in given.items():
            if value is not None:
                config.stated[name] = plain(value)
        return config, objects

    def _parts_of(self, train: Any, held_out: Any) -> Parts:
        if train is None:
            raise ConfigError("train_dataset: is missing; give a datasets.Dataset, a list of rows, a path or a hub id")
        return Parts(
            model=self.model,
            tokenizer=self.processing_class,
            train=self._rows(train, DATASET),
            held_out=None if held_out is None else self._rows(held_out, "eval_dataset"),
            ref_model=self.ref_model,
            peft_config=self._peft_config,
        )

    def _rows(self, rows: Any, what: str) -> GivenRows:
        renamed = self.args.recipe.get("data.columns") or dict(self.args.recipe.get("data") or {}).get("columns") or {}
        field = [self.args.dataset_text_field] if self.kind == "SFT" and self.args.dataset_text_field else []
        return given_rows(rows, self.kind, what, more=[*renamed.values(), *field], made_text=self._made_text)

    def _say_once(self, start: TrainerRecipe) -> None:
        """Say what differs from TRL, so that nothing is ignored in silence."""
        if start.without_effect:
            logger.warning(
                "%sTrainer: without effect here, for the reasons in docs/trl_keywords.md: %s",
                self.kind,
                ", ".join(start.without_effect),
            )
        left_out = self._parts.train.left_out
        if left_out:
            logger.warning("%s: columns that are not read, as in TRL: %s", DATASET, ", ".join(left_out))
        for remark in start.remarks:
            logger.info("%s", remark)

    def train(
        self, resume_from_checkpoint: bool | str | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """Train the model in place.

        Args:
            resume_from_checkpoint: go on with the interrupted run in `args.output_dir`, from its newest complete checkpoint;
                the given model must be the one it began with. Otherwise a run that is there is moved aside.
            trial: refused; there is no search of hyper-parameters.
            ignore_keys_for_eval: no effect; only metrics are gathered.

        Returns:
            Steps, the mean loss in training, and speed, as transformers' Trainer does.

        Raises:
            ExptiltError: rows cannot be used, or a loss is not finite; nothing is lost.
        """
        if trial is not None:
            raise ConfigError("trial: hyper-parameters are not searched here; see `exptilt frontier`")
        resume = resume_from_checkpoint or self.args.resume_from_checkpoint
        self._require_newest(resume)
        if not resume:
            self._require_base_apart()
        start = recipe_for(self.args, self._parts, resume=bool(resume))
        self.state = self._new_state(
            num_train_epochs=math.ceil(float(self.args.num_train_epochs or 1)),
            logging_steps=start.recipe.train.log_every,
            train_batch_size=start.recipe.batch.size,
        )
        bridge = self._bridge = self._new_bridge(start)
        began = time.perf_counter()
        self.is_in_train = True
        try:
            with holding(*start.held), left_in_its_form(self.model):
                outcome = run_recipe(start.recipe, self._console(), callbacks=[bridge], measures=False)
        finally:
            self.is_in_train = False
        if outcome.model is not None:
            self.model = outcome.model.eval()
            self._parts = replace(self._parts, model=self.model, peft_config=None)  # a second training goes on from it
        self._start = start
        if start.recipe.train.best is not None and outcome.finished:
            take_best_weights(self.model, outcome.folder.model)
        metrics = self._summary(outcome.step, time.perf_counter() - began)
        if self.args.push_to_hub and Processes().is_main_process:
            self.push_to_hub()
        return TrainOutput(outcome.step, metrics["train_loss"], metrics)

    def _new_state(self, **more: Any) -> TrainerState:
        processes = Processes()
        return TrainerState(
            is_local_process_zero=processes.is_local_main_process,
            is_world_process_zero=processes.is_main_process,
            **more,
        )

    def _new_bridge(self, start: TrainerRecipe) -> EventBridge:
        strategy = (
            self.args.eval_strategy if "evaluation_strategy" not in self.args.stated else self.args.evaluation_strategy
        )
        return EventBridge(
            args=self.args,
            trainer_state=self.state,
            callbacks=self.callbacks,
            things={"model": self.model, "processing_class": self.processing_class, "tokenizer": self.processing_class},
            log=self.log,
            measures=str(strategy) not in ("no", "False"),
            from_start=bool(self.args.eval_on_start),
        )

    def _require_newest(self, resume: Any) -> None:
        """A path must be that of the run: only its newest complete checkpoint is gone on with."""
        if isinstance(resume, str | Path) and not Path(resume).resolve().is_relative_to(
            Path(self.args.output_dir).resolve()
        ):
            raise ConfigError(
                f"resume_from_checkpoint={str(resume)!r}: a run goes on from its newest checkpoint in "
                f"output_dir={self.args.output_dir!r}; give True"
            )

    def _require_base_apart(self) -> None:
        """An adapter is saved with the name of its base, so a base in the run folder must not be moved aside with it."""
        base = str(getattr(causal_lm(self.model), "name_or_path", "") or "")
        adapts = self._parts.peft_config is not None or has_adapter(self.model)
        folder = Path(self.args.output_dir).resolve()
        if adapts and base and Path(base).exists() and Path(base).resolve().is_relative_to(folder):
            raise ConfigError(
                f"output_dir={self.args.output_dir!r}: holds the base of the adapter ({base}), which a new run would move "
                "aside; set args.output_dir to another folder"
            )

    def _console(self) -> Console | None:
        return Console(quiet=True) if self.args.disable_tqdm else None

    def _summary(self, steps: int, seconds: float) -> dict[str, float]:
        losses = self._bridge.losses if self._bridge else []
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(steps * self._start.recipe.batch.size / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
            "total_flos": 0.0,
            "train_loss": sum(losses) / len(losses) if losses else 0.0,
        }
        self.log(dict(metrics))
        return {**metrics, "epoch": float(self.state.epoch or 0.0)}

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the model, as it is in memory, on held-out rows: loss and metrics over all of them at once.

        Args:
            eval_dataset: rows; default, those the trainer was made with.
            ignore_keys: no effect; only metrics are gathered.
            metric_key_prefix: begin of the names.

        Raises:
            ConfigError: there are no rows; or the reference is the start of a model that was trained in place since, all
                of its weights: then only the rows the trainer was made with are measured.
        """
        began = time.perf_counter()
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ConfigError("eval_dataset: is missing; give it to the trainer or to evaluate")
        latest = {} if self._bridge is None else self._bridge.latest
        if latest and eval_dataset is None and self._start.recipe.train.best is None:
            named = {f"{metric_key_prefix}{key.removeprefix('eval')}": value for key, value in latest.items()}
        else:
            self._require_reference(bool(self._bridge))
            parts = self._parts_of(rows, rows)
            peft_config = None if self._bridge else parts.peft_config
            start = recipe_for(self.args, replace(parts, peft_config=peft_config))
            named = held_out_metrics(start, metric_key_prefix)
        seconds = time.perf_counter() - began
        metrics = {**named, f"{metric_key_prefix}_runtime": round(seconds, 4)}
        self.log(dict(metrics))
        self._fire("on_evaluate", metrics=metrics)
        return {**metrics, "epoch": float(self.state.epoch or 0.0)}

    def _require_reference(self, trained: bool) -> None:
        """A model trained in place in all its weights has left its start, which would be the reference."""
        needs = self.kind in ("DPO", "KTO")
        if trained and needs and self.ref_model is None and self._peft_config is None:
            raise ConfigError(
                "evaluate: the reference is the model as it was before training, and that is gone; give ref_model, or these "
                "rows as eval_dataset of the trainer"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add a line to `state.log_history`, with its step and epoch."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model and its tokenizer as `from_pretrained` loads them; default, into `args.output_dir`.

        Raises:
            ConfigError: the folder holds a model that is not of this trainer.
            ModelError: it cannot be written.
        """
        if not Processes().is_main_process:
            return
        folder = Path(output_dir or self.args.output_dir)
        if folder.resolve() == Path(self.args.output_dir).resolve():
            write_into_run(self.model, self.processing_class, folder)
            return
        require_writable(folder)
        save_model(self.model, self.processing_class, folder)

    def push_to_hub(self, commit_message: str = "End of training", blocking: bool = True, **keywords: Any) -> str:
        """Upload the model of the run folder, with its card; returns the address of the repository.

        Raises:
            ModelError: nothing was trained yet, or the hub refuses.
        """
        folder = RunFolder(Path(self.args.output_dir)).model
        if not folder.is_dir():
            raise ModelError(f"{folder}: there is no trained model to push; call train first")
        from huggingface_hub import HfApi

        name = self.args.hub_model_id or self.args.push_to_hub_model_id or Path(self.args.output_dir).resolve().name
        token = keywords.get("token") or self.args.hub_token or self.args.push_to_hub_token
        return publish(folder, str(name), private=bool(self.args.hub_private_repo), api=HfApi(token=token))

    def add_callback(self, callback: Any) -> None:
        """Add a callback of transformers."""
        self.callbacks += made([callback])

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, or all of a class."""
        self.callbacks = [one for one in self.callbacks if one is not callback and type(one) is not callback]

    def log_metrics(self, split: str, metrics: Mapping[str, float]) -> None:
        """Print metrics."""
        if not Processes().is_main_process:
            return
        print(f"***** {split} metrics *****")
        for name in sorted(metrics):
            print(f"  {name:30} = {metrics[name]}")

    def save_metrics(self, split: str, metrics: Mapping[str, float], combined: bool = True) -> None:
        """Write metrics to `SPLIT_results.json` in the run folder, and to `all_results.json`."""
        if not Processes().is_main_process:
            return
        folder = Path(self.args.output_dir)
        write_whole(folder / f"{split}_results.json", json.dumps(dict(metrics), indent=4, sort_keys=True) + "\n")
        if combined:
            path = folder / "all_results.json"
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_whole(path, json.dumps({**known, **metrics}, indent=4, sort_keys=True) + "\n")

    def save_state(self) -> None:
        """Write `trainer_state.json` into the run folder."""
        if not Processes().is_main_process:
            return
        path = Path(self.args.output_dir) / "trainer_state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(str(path))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The card stands in the model's folder: it is written with the model."""

    def is_world_process_zero(self) -> bool:
        """Whether this is the first process."""
        return Processes().is_main_process

    @property
    def accelerator(self) -> Processes:
        """Which process of how many this is, as programs ask accelerate."""
        return Processes()

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, by its older name."""
        return self.processing_class

    def _fire(self, event: str, **more: Any) -> None:
        bridge = self._bridge or self._new_bridge(self._start)
        bridge.fire(event, **more)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"{type(self).__name__} has no {name!r}: exptilt trains with a loop of its own; docs/trl.md lists what trainers have"
        )


def _alike(name: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
