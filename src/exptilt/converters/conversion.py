"""A recipe made of another tool's configuration, in which every key of the source is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.converters.draft import Draft, Fate
from exptilt.converters.objective_keys import convert_objective
from exptilt.converters.row_keys import convert_rows
from exptilt.converters.single_keys import convert_single_keys
from exptilt.converters.source_files import read_source
from exptilt.converters.step_keys import convert_steps
from exptilt.converters.tools import ACCELERATE, DEEPSPEED, Tool, defaults_of_trainer, tool_of
from exptilt.converters.weight_keys import convert_batches, convert_processes, convert_weights
from exptilt.errors import ConfigError

NEEDED = ("model.path", "data.train", "output")
"""Keys without which a recipe does not run."""


@dataclass(frozen=True)
class Conversion:
    """A configuration as a recipe."""

    files: tuple[str, ...]
    tool: str
    settings: Mapping[str, Any]
    """By our dotted keys."""
    fates: tuple[Fate, ...]
    remarks: tuple[str, ...]
    missing: tuple[str, ...]
    """Keys that the recipe still needs."""


def convert_files(files: Sequence[Path], processes: int | None = None) -> Conversion:
    """Convert configurations that belong together, such as TRL's and accelerate's.

    Args:
        files: YAML, JSON or a Python script; later files say what earlier ones leave open.
        processes: processes that training ran on there; None: what an accelerate configuration says, else one.

    Raises:
        ConfigError: a file cannot be read, or no tool's keys are in it.
    """
    source: dict[str, Any] = {}
    tools: list[Tool] = []
    for path in files:
        content = read_source(path)
        tool = tool_of(content)
        if tool is None:
            known = "TRL, Axolotl, LLaMA-Factory, alignment-handbook, Unsloth, accelerate or DeepSpeed"
            raise ConfigError(
                f"{path}: no configuration of {known} is known by these keys: {', '.join(list(content)[:5])}"
            )
        tools.append(tool)
        source = content | source
    main = next((tool for tool in tools if tool not in (ACCELERATE, DEEPSPEED)), tools[0])
    stated = frozenset(source)
    draft = Draft({**source, **_unsaid(main, source)}, stated)
    draft_of(draft, files[0].parent, processes)
    settings = draft.settings
    if "output_dir" in draft.source:
        settings["output"] = str(draft.source["output_dir"])
    return Conversion(
        files=tuple(str(path) for path in files),
        tool=main.name,
        settings=settings,
        fates=tuple(draft.fates[key] for key in draft.source),
        remarks=tuple(dict.fromkeys(draft.remarks)),
        missing=tuple(key for key in NEEDED if not settings.get(key)),
    )


def convert_keywords(kind: str, stated: Mapping[str, Any], rows: int | None = None, processes: int = 1) -> Conversion:
    """Convert the keywords of one of TRL's trainers, with TRL's defaults for what they leave open.

    Args:
        kind: `DPO` of `DPOTrainer`.
        stated: the keywords and their values.
        rows: number of training rows, by which epochs and shares are counted in steps.
        processes: processes that train.

    Raises:
        ConfigError: a value is no number where one is needed.
    """
    defaults = defaults_of_trainer(kind, stated)
    draft = Draft({"trainer": f"{kind}Trainer", **defaults, **stated}, frozenset(stated), rows=rows)
    draft_of(draft, Path(), processes)
    return Conversion(
        files=(),
        tool="TRL",
        settings=draft.settings,
        fates=tuple(draft.fates[key] for key in draft.source),
        remarks=tuple(dict.fromkeys(draft.remarks)),
        missing=(),
    )


def _unsaid(tool: Tool, source: Mapping[str, Any]) -> dict[str, Any]:
    """That tool's defaults for what the files leave open."""
    other_names = {"warmup_ratio": ("warmup_steps", "num_warmup_steps"), "num_train_epochs": ("max_steps",)}
    other_names |= {"pref_loss": ("stage",), "max_length": ("max_seq_length",)}
    return {
        key: value
        for key, value in tool.defaults.items()
        if source.get(key) is None and not any(source.get(name) for name in other_names.get(key, ()))
    }


def draft_of(draft: Draft, folder: Path, processes: int | None) -> None:
    """Go through all keys: those that mean something together first, then one by one."""
    convert_processes(draft)
    convert_weights(draft)
    convert_batches(draft, processes)
    convert_objective(draft)
    convert_rows(draft, folder)
    convert_steps(draft)
    convert_single_keys(draft)
