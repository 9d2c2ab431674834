"""Where a trainer's model is written, and read back."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from exptilt.errors import ConfigError
from exptilt.policies.adapters import has_adapter
from exptilt.policies.saving import save_model
from exptilt.run_folder.ownership import require_no_file, require_ours, sign

_WEIGHTS = ("*.safetensors", "*.bin", "adapter_config.json")
MARK = ".saved-by-exptilt"
"""Empty file beside a model that a trainer has written, which it may replace."""


def write_into_run(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model beside the files of the run, so that `from_pretrained(output_dir)` loads it as in TRL.

    Raises:
        CheckpointError: the folder is none of exptilt's.
        ModelError: it cannot be written.
    """
    require_no_file(folder, "output_dir")
    require_ours(folder, "run", "output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    sign(folder, "run")
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
        save_model(model, tokenizer, Path(staging) / "model")
        for path in sorted((Path(staging) / "model").iterdir()):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
            else:
                os.replace(path, folder / path.name)


def require_writable(folder: Path) -> None:
    """Refuse a folder that holds a model of somebody else's, which would be replaced; mark a new one as ours.

    Raises:
        ConfigError: naming the folder.
    """
    require_no_file(folder, "output_dir")
    holds = folder.is_dir() and any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)
    if holds and not (folder / MARK).is_file():
        raise ConfigError(f"save_model: {folder} holds a model that this trainer did not write; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def take_best_weights(model: Any, folder: Path) -> None:
    """Give a model in memory the weights of a saved folder of the same model."""
    from safetensors.torch import load_file

    if has_adapter(model):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        return
    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    model.load_state_dict(state, strict=False)
    model.tie_weights()
