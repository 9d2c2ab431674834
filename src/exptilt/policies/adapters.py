"""Low-rank adapters (LoRA, DoRA) around a frozen model, by peft."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file

from exptilt.data.read.hub import is_reachable
from exptilt.errors import ModelError
from exptilt.in_memory import is_in_memory
from exptilt.policies.adapter_weights import require_no_head, require_same_weights
from exptilt.policies.engine.forward import causal_lm
from exptilt.policies.model_heads import LANGUAGE_HEAD, SCORE_HEAD, ModelHead, head_of
from exptilt.policies.stacked import is_stacked, only_start, stack
from exptilt.settings.model_settings import AdapterConfig
from exptilt.wording import in_one_line


def with_adapter(model: Any, settings: AdapterConfig, *, seed: int = 0, revision: str | None = None) -> Any:
    """Freeze a model and put a trainable adapter around it, in float32.

    A new adapter changes nothing at first: one of its two matrices is zero. Beside it the score of a reward model is trained
    in full (peft's `modules_to_save`). If the model has an adapter already
    (`start.load_start`), the new one is the second and the first is frozen; see `stacked`.

    Args:
        model: the base; its weights are used in place.
        settings: which adapter.
        seed: seed of the random matrix; torch's global generator is left as it was.
        revision: revision of a base from the hub, written into the adapter.

    Returns:
        A `peft.PeftModel`.

    Raises:
        ModelError: no layer has such a name, or the folder is no adapter for this model.
    """
    from peft import LoraConfig, get_peft_model

    if is_in_memory(settings.path):
        return _trainable(model)
    if settings.path is not None:
        folder = find_adapter(settings.path)
        _check_adapter(settings.path)
        return load_adapter(model, folder or settings.path, trainable=True)
    head = head_of(model)
    lora = LoraConfig(
        task_type=head.peft_task,
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        **_targets(model, settings),
        modules_to_save=sorted({*settings.modules_to_save, *(name.removesuffix(".weight") for name in head.made)})
        or None,
        use_dora=settings.dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 stores transposes
    )
    with as_one_line("adapter"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = stack(model, lora) if has_adapter(model) else get_peft_model(model, lora)
    base = str(causal_lm(model).name_or_path)
    # A relative folder would be looked for wherever the adapter is loaded.
    lora.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    lora.revision = None if Path(base).is_dir() else revision
    return adapted


def _trainable(model: Any) -> Any:
    """A model in memory whose own adapter is trained further, in float32."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.set_adapter("default")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _targets(model: Any, settings: AdapterConfig) -> dict[str, Any]:
    """Names of the layers that get an adapter; `all-linear` means every linear layer of the text model except the head."""
    if settings.targets != ("all-linear",):
        return {"target_modules": list(settings.targets)}
    inner = causal_lm(model)
    text = _text_part(inner)
    if text is None and not has_adapter(model):
        return {"target_modules": "all-linear"}
    prefix = "" if text is None else f"{text}."
    head = inner.get_output_embeddings()
    names = {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in inner.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name.startswith(prefix) and ".lora_" not in name
        if module is not head and getattr(head, "base_layer", None) is not module
    }
    outside = {} if text is None else {"exclude_modules": rf"(?!{re.escape(prefix)}).*"}
    return {"target_modules": sorted(names), **outside}


def _text_part(inner: Any) -> str | None:
    """The name of the text model inside a model that also sees or hears; None for a plain text model."""
    if inner.config.get_text_config() is inner.config:
        return None
    decoder = inner.get_decoder()
    return next((name for name, module in inner.named_modules() if module is decoder and name), None)


def is_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds a PEFT adapter."""
    return (Path(folder).expanduser() / "adapter_config.json").is_file()


def find_adapter(path: str, revision: str | None = None) -> Path | None:
    """Find the folder of a PEFT adapter that a path or hub id names; None if it names something else.

    A cached hub id needs no network. A hub id that cannot be reached counts as no adapter; loading it then gives the reason.
    """
    if is_in_memory(path):
        return None
    folder = Path(path).expanduser()
    if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        return folder if is_adapter(folder) else None
    is_reachable()
    try:
        settings = cached_file(
            path,
            "adapter_config.json",
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return None if settings is None else _with_weights(path, Path(settings), revision)


def _with_weights(hub_id: str, settings: Path, revision: str | None) -> Path:
    """Download or find the cached folder of a hub id, with every file that an adapter and its tokenizer need."""
    with suppress(OSError, ValueError):
        snapshot_download(
            hub_id, revision=revision, allow_patterns=["*.json", "*.jinja", "*.model", "*.txt", "adapter_model.*"]
        )
    return settings.parent


def revision_of(folder: str | Path) -> str | None:
    """The revision of the base model that an adapter was trained on; None if the adapter names none."""
    path = Path(folder).expanduser() / "adapter_config.json"
    revision = json.loads(path.read_text(encoding="utf-8")).get("revision")
    return str(revision) if revision else None


def base_of(folder: str | Path) -> str:
    """The folder or hub id of the model that an adapter was trained on.

    Raises:
        ModelError: the adapter names no base, or a folder that is gone.
    """
    _check_adapter(folder)
    path = Path(folder).expanduser() / "adapter_config.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise ModelError(f"{path}: is not valid JSON ({error})") from None
    if not base:
        raise ModelError(f"{path}: names no base model (base_model_name_or_path); write its folder or hub id there")
    if str(base).startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
        raise ModelError(
            f"{path}: its base model {base} is not there; put it back, or write its new place into "
            "base_model_name_or_path"
        )
    return str(base)


def task_of(folder: str | Path) -> str | None:
    """What peft calls the task of an adapter: CAUSAL_LM, or SEQ_CLS for that of a reward model; None where it does not say."""
    path = Path(folder).expanduser() / "adapter_config.json"
    task = json.loads(path.read_text(encoding="utf-8")).get("task_type")
    return str(task) if task else None


def is_score_adapter(folder: str | Path) -> bool:
    """Tell whether a folder holds the adapter of a reward model."""
    return is_adapter(folder) and task_of(folder) == SCORE_HEAD.peft_task


def load_adapter(
    base: PreTrainedModel,
    folder: str | Path,
    *,
    name: str = "default",
    trainable: bool = False,
    ignore_unexpected: bool = False,
) -> Any:
    """Put a saved adapter around its base.

    Args:
        base: the model it was trained on; its weights are used in place.
        folder: the adapter's.
        name: name of the adapter in peft.
        trainable: whether training goes on with it; else it is for scoring and sampling only.
        ignore_unexpected: load it although it holds weights that a language model has no place for.

    Raises:
        ModelError: the adapter does not belong to this model: a shape differs, a weight is missing in either, or it was
            trained for another task and brings a head for it.
    """
    from peft import PeftConfig, PeftModel

    where, head, task = Path(folder).expanduser(), head_of(base), task_of(folder)
    _require_same_head(folder, head, task, trainable)
    with as_one_line(str(folder)):
        settings = PeftConfig.from_pretrained(str(where))
        if task == LANGUAGE_HEAD.peft_task != head.peft_task:
            settings.task_type = None  # a body's change alone, which no language model's methods are wanted for
        model = PeftModel.from_pretrained(base, str(where), adapter_name=name, is_trainable=trainable, config=settings)
    require_same_weights(model, where, name)
    if not ignore_unexpected:
        advice = "" if trainable else ", or set model.ignore_unexpected=true to use it without them"
        require_no_head(model, where, name, left=head.left, advice=advice)
    return model


def _require_same_head(folder: str | Path, head: ModelHead, task: str | None, trainable: bool) -> None:
    """Refuse a reward model's adapter on a language model, and a language model's where a reward model would go on with it."""
    if is_score_adapter(folder) and head is LANGUAGE_HEAD:
        raise ModelError(f"{folder}: is the adapter of a reward model (task {task}), not of a language model")
    if task == LANGUAGE_HEAD.peft_task and head is SCORE_HEAD and trainable:
        raise ModelError(
            f"{folder}: is the adapter of a language model and has no score to go on with; name it as model.path, and a "
            "reward model starts from it"
        )


@contextmanager
def as_one_line(where: str) -> Iterator[None]:
    """Join an error of peft into one line; hide warnings that transformers gives peft and users cannot act on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # Head and embedding are parted where they must be (`merging`, `stacked.mark_ties`).
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            yield
    except (ValueError, RuntimeError, OSError, TypeError, LookupError, AttributeError, ImportError) as error:
        words = f"peft does not know {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise ModelError(f"{where}: {words}") from error


class AdapterOff:
    """The frozen base of a PEFT model, used as a model of its own with the adapter switched off; nothing is copied.

    Scoring, sampling and divergences accept it in place of a model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of the base model."""
        with self.running():
            return self.model(*args, **kwargs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Switch the adapter off for the duration of a block; code that runs a part of the model enters it."""
        with only_start(self.model) if is_stacked(self.model) else self.model.disable_adapter():
            yield


def has_adapter(model: Any) -> bool:
    """Tell whether a model is a base with an adapter around it."""
    return hasattr(model, "disable_adapter") and hasattr(model, "peft_config")


def _check_adapter(folder: str | Path) -> None:
    path = Path(folder).expanduser()
    if str(folder).startswith(("/", ".", "~")) and not path.exists():
        raise ModelError(f"{folder}: no such folder")
    if path.is_dir() and not is_adapter(path):
        raise ModelError(f"{folder}: is no adapter folder, adapter_config.json is not in it")
