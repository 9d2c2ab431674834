"""`exptilt export`: write a run's model as one plain folder."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.errors import CheckpointError, ConfigError, ModelError
from exptilt.reports.model_card import write_card
from exptilt.run_folder.file_names import CONFIG
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.ownership import require_apart
from exptilt.settings.model_settings import ModelConfig


def export(run: Path, *, merge: bool = False, output: Path | None = None, card_for: str | None = None) -> Path:
    """Return the folder of a run's model, ready to be used elsewhere.

    Args:
        run: a finished run.
        merge: work the adapter into the weights of its base, so that one model remains.
        output: folder to write; must be absent or empty. Default: `merged` in the run folder, or the run's own `model`.
        card_for: hub id that the model card shows, if it is new.

    Raises:
        CheckpointError: the folder holds no finished run.
        ConfigError: the output is in use.
        ModelError: there is no adapter to merge, or its base is gone.
        DiskError: the disk refuses.
    """
    folder = _finished(run)
    _require_free(folder, output)
    if merge:
        target = output or run / "merged"
        _require_merged(target)
        from exptilt.policies.adapters import is_score_adapter
        from exptilt.processes.surroundings import left_as_found

        with left_as_found():
            what, unit = ("scores", "") if is_score_adapter(folder.model) else ("log-probabilities", " nats")
            difference = merge_adapter(folder.model, target)
        Console(stderr=True).print(
            f"merged: {what} differ by at most {difference:.2g}{unit} from base and adapter on a probe",
            highlight=False,
            soft_wrap=True,
        )
        write_card(folder, target, repository=card_for)
        return target
    if not (folder.model / "README.md").is_file():  # an existing card may have been edited
        write_card(folder, repository=card_for)
    if output is None:
        return folder.model
    from exptilt.policies.saving import copy_model

    copy_model(folder.model, output)
    return output


def merge_adapter(source: Path, target: Path) -> float:
    """Merge an adapter folder with its base, and write the model as plain transformers loads it.

    The sum is formed in float32 and rounded once to the dtype of the base. The written model is loaded again and
    compared with base and adapter.

    Returns:
        The largest difference of a log-probability on a probe, nats, or of a reward model's score; beyond that of the sum
        it is the dtype's rounding.

    Raises:
        ModelError: the folder holds no adapter, its base is gone, the merged model is another than base and adapter, or
            the target cannot be written.
    """
    from exptilt.policies.adapters import is_adapter, is_score_adapter
    from exptilt.policies.engine.forward import causal_lm
    from exptilt.policies.merging import LOADED_TOLERANCE, largest_difference, merge, probe
    from exptilt.policies.model_heads import LANGUAGE_HEAD, TRAINED_SCORE
    from exptilt.policies.models import load_model, load_tokenizer
    from exptilt.policies.saving import save_model

    if not is_adapter(source):
        raise ModelError(f"{source}: is a whole model already, there is no adapter to merge; leave out --merge")
    settings = ModelConfig(path=str(source))
    tokenizer = load_tokenizer(settings)
    head = TRAINED_SCORE if is_score_adapter(source) else LANGUAGE_HEAD
    model: Any = load_model(settings, tokenizer, head=head)
    dtype = causal_lm(model).dtype
    before = probe(model.float())
    merged = merge(model).model
    rounded = probe(copy.deepcopy(merged).to(dtype).float())
    save_model(merged, tokenizer, target, dtype=dtype)
    after = probe(load_model(ModelConfig(path=str(target)), tokenizer, head=head).float())  # type: ignore[no-untyped-call]
    if largest_difference(rounded, after) > LOADED_TOLERANCE:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelError(
            f"{target}: the merged model loads as another one (what it computes differs by "
            f"{largest_difference(rounded, after):.3g} on a probe); it was removed, use the adapter as it is"
        )
    return largest_difference(before, after)


def _finished(run: Path) -> RunFolder:
    folder = RunFolder(run)
    if not (run / CONFIG).is_file():
        raise CheckpointError(f"{run}: is not a run folder (it has no config.yaml)")
    if folder.run.status != "done" or not folder.model.is_dir():
        raise CheckpointError(f"{run}: this run is not finished; go on with `exptilt train {run}/config.yaml`")
    return folder


def _require_free(run: RunFolder, output: Path | None) -> None:
    """Refuse an output folder that is not empty or lies in a model."""
    if output is None:
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output}: is not an empty folder; choose another --output")
    from exptilt.policies.adapters import base_of, is_adapter

    base = {"the adapter's base": base_of(run.model)} if is_adapter(run.model) else {}
    require_apart(output, {"the run's model": str(run.model)} | base, "--output")


def _require_merged(target: Path) -> None:
    """Refuse to replace a folder that no earlier merge has written: its model card must exist and name exptilt."""
    card = target / "README.md"
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        ours = "\n- exptilt\n" in card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise ConfigError(f"{target}: is no model that exptilt merged and would be replaced; choose another --output")
