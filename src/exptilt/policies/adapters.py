"""Low-rank adapters (LoRA, DoRA) around a frozen model, by peft."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from exptilt.errors import ModelError
from exptilt.settings.model_settings import AdapterConfig


def with_adapter(model: PreTrainedModel, settings: AdapterConfig, *, seed: int = 0) -> Any:
    """Freeze a model and put a trainable adapter around it, in float32.

    A new adapter changes nothing at first: one of its two matrices is zero.

    Args:
        model: the base; its weights are used in place.
        settings: which adapter.
        seed: of the random matrix; torch's global generator is left as it was.

    Returns:
        A `peft.PeftModel`.

    Raises:
        ModelError: in one line, if no layer has such a name, or the folder is no adapter for this model.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if settings.path is not None:
        _check_adapter(settings.path)
        with _as_one_line("adapter"):
            return PeftModel.from_pretrained(model, settings.path, is_trainable=True)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.targets == ("all-linear",) else list(settings.targets),
        modules_to_save=list(settings.modules_to_save) or None,
        use_dora=settings.dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 stores transposes
    )
    with _as_one_line("adapter"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, lora)
    base = str(model.name_or_path)
    # A relative folder would be looked for wherever the adapter is loaded.
    lora.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return adapted


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (Path(folder).expanduser() / "adapter_config.json").is_file()


def base_of(folder: str | Path) -> str:
    """The model an adapter was trained on: a folder or hub id.

    Raises:
        ModelError: it names none, or a folder that is gone.
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


def load_adapter(base: PreTrainedModel, folder: str | Path) -> Any:
    """Put a saved adapter around its base, for scoring and sampling only.

    Raises:
        ModelError: in one line, if it does not belong to this model.
    """
    from peft import PeftModel

    with _as_one_line(str(folder)):
        return PeftModel.from_pretrained(base, str(Path(folder).expanduser()))


@contextmanager
def _as_one_line(where: str) -> Iterator[None]:
    """What peft raises, for a person; what transformers warns peft about is not theirs to mend."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except (ValueError, RuntimeError, OSError, TypeError) as error:
        raise ModelError(f"{where}: {str(error).strip().partition(chr(10))[0]}") from error


class AdapterOff:
    """A PEFT model with its adapter switched off, as a model of its own: the frozen base, and no second copy.

    Scoring, sampling and divergences take it where they take a model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's own forward."""
        with self.running():
            return self.model(*args, **kwargs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the adapter is off; entered by whatever runs a part of the model."""
        with self.model.disable_adapter():
            yield


def adapter_fingerprint(model: Any) -> str:
    """What a saved adapter's settings are, beyond its weights: its scale, where it sits, its kind."""
    kept = {name: one.to_dict() for name, one in model.peft_config.items()}
    ignored = {"base_model_name_or_path", "inference_mode", "lora_dropout", "revision", "peft_version"}
    settings = {name: {key: value for key, value in one.items() if key not in ignored} for name, one in kept.items()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=_json_value).encode()).hexdigest()


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def has_adapter(model: Any) -> bool:
    """Whether a model is a base with an adapter around it."""
    return hasattr(model, "disable_adapter") and hasattr(model, "peft_config")


def _check_adapter(folder: str | Path) -> None:
    path = Path(folder).expanduser()
    if str(folder).startswith(("/", ".", "~")) and not path.exists():
        raise ModelError(f"{folder}: no such folder")
    if path.is_dir() and not is_adapter(path):
        raise ModelError(f"{folder}: is no adapter folder, adapter_config.json is not in it")
