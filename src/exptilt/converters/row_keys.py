"""Where rows come from in another tool's configuration, and how long they may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exptilt.converters.draft import Draft
from exptilt.errors import ConfigError

_LENGTHS = ("max_length", "max_seq_length", "sequence_len", "cutoff_len", "max_len")
_PARTS = ("max_prompt_length", "max_completion_length", "max_target_length")
_AXOLOTL_TYPES = {
    "chatml.intel": "orca",
    "llama3.intel": "orca",
    "chatml.argilla": "argilla",
    "chatml.ultra": "preference",
    "llama3.ultra": "preference",
    "zephyr.nectar": "answers",
    "chat_template.default": "auto",
    "chat_template.argilla_chat": "argilla",
    "chatml.prompt_pairs": "preference",
    "user_defined.default": "auto",
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
}
_FIELDS = {
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_system": "system",
    "field_messages": "messages",
}


def convert_rows(draft: Draft, folder: Path) -> None:
    """Set the keys of `data`.

    Args:
        draft: the recipe to be.
        folder: of the configuration, where LLaMA-Factory's `dataset_info.json` may lie.
    """
    if draft.has("dataset_mixer"):
        _from_mixer(draft)
    elif isinstance(draft.get("datasets"), list):
        _from_list(draft)
    elif draft.has("dataset") and draft.has("dataset_dir", "stage", "finetuning_type"):
        _from_registry(draft, folder)
    _single(draft)
    _lengths(draft)


def _single(draft: Draft) -> None:
    for keys, ours in (
        (("dataset_name",), "data.train"),
        (("dataset_config",), "data.subset"),
        (("dataset_train_split",), "data.split"),
        (("val_size", "val_set_size"), "data.test_fraction"),
        (("max_samples",), "data.limit"),
    ):
        for key in (key for key in keys if key not in draft.fates and draft.has(key)):
            value = draft.get(key)
            if ours == "data.test_fraction" and not 0 < float(value) < 1:
                draft.as_default("no rows are held out here as well", key) if not value else draft.refuse(
                    "a number of rows; set data.test_fraction, a share of prompts", key
                )
            else:
                draft.use(ours, value, key)
    if draft.has("dataset_test_split"):
        held_out = draft.get("eval_strategy", "evaluation_strategy", default="no") != "no"
        if held_out:
            draft.use("data.test_split", draft.get("dataset_test_split"), "dataset_test_split")
        else:
            draft.no_effect("nothing is measured there", "dataset_test_split")


def _put_sources(draft: Draft, sources: list[dict[str, Any]], *keys: str) -> None:
    """The first source is that of data, more are its mixture."""
    first = sources[0]
    more = [{("path" if key == "train" else key): value for key, value in source.items()} for source in sources[1:]]
    for name, value in first.items():
        draft.use(f"data.{name}", value, *keys)
    if more:
        draft.use("data.mixture", more, *keys)


def _from_mixer(draft: Draft) -> None:
    """alignment-handbook: shares of hub sets."""
    shares: Mapping[str, float] = draft.get("dataset_mixer")
    splits = draft.get("dataset_splits", default=["train"])
    train = next((split for split in splits if "train" in split), splits[0])
    held_out = next((split for split in splits if "test" in split), None)
    sources = [{"train": name, "split": train} for name in shares]
    _put_sources(draft, sources, "dataset_mixer", "dataset_splits")
    if held_out:
        draft.use("data.test_split", held_out, "dataset_splits")
    if any(share != 1 for share in shares.values()):
        draft.refuse("shares of a set's rows; set data.limit, or weights of data.mixture", "dataset_mixer")


def _from_list(draft: Draft) -> None:
    """Axolotl: a list of sources with types and fields."""
    sources = []
    for given in draft.get("datasets"):
        source: dict[str, Any] = {"train": given.get("path")}
        files = given.get("data_files")
        if files and given.get("path") in ("json", "csv", "parquet", "arrow"):
            source["train"] = files if isinstance(files, str) else files[0]
        source |= {
            ours: given[theirs] for theirs, ours in (("split", "split"), ("name", "subset")) if given.get(theirs)
        }
        source |= _typed(draft, given.get("type"), given)
        sources.append(source)
    _put_sources(draft, sources, "datasets")


def _typed(draft: Draft, kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {**given, **(kind if isinstance(kind, Mapping) else {})}
    columns = {ours: fields[theirs] for theirs, ours in _FIELDS.items() if fields.get(theirs)}
    columns = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
    found: dict[str, Any] = {"columns": columns} if columns else {}
    if isinstance(kind, Mapping):
        draft.remarks.append("a type of your own: its prompt and answer formats are not applied; the chat template is")
        return found
    known = _AXOLOTL_TYPES.get(str(kind))
    if known is None and kind is not None:
        draft.remarks.append(f"rows of type {kind!r}: the format is told from the columns; look at `exptilt doctor`")
    return found | ({"format": known} if known not in (None, "auto") else {})


def _from_registry(draft: Draft, folder: Path) -> None:
    """LLaMA-Factory: names of `dataset_info.json`."""
    keys = [key for key in ("dataset", "dataset_dir") if draft.has(key)]
    where = folder / str(draft.get("dataset_dir", default="data"))
    registry = next(
        (path for path in (where / "dataset_info.json", folder / "dataset_info.json") if path.is_file()), None
    )
    names = draft.get("dataset")
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    if registry is None:
        _put_sources(draft, [{"train": name} for name in names], *keys)
        draft.remarks.append(f"no dataset_info.json in {where}: data.train holds the name, set the file or the hub id")
        return
    try:
        entries = json.loads(registry.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{registry}: cannot be parsed: {error}") from None
    missing = [name for name in names if name not in entries]
    if missing:
        raise ConfigError(f"{registry}: has no data set {missing[0]!r}, which dataset names")
    _put_sources(draft, [_registered(entries[name], registry.parent) for name in names], *keys)


def _registered(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    local = entry.get("file_name")
    source: dict[str, Any] = {
        "train": str(folder / local) if local else entry.get("hf_hub_url") or entry.get("script_url")
    }
    source |= {key: entry[key] for key in ("split", "subset") if entry.get(key)}
    columns = {ours: theirs for ours, theirs in entry.get("columns", {}).items() if ours != theirs}
    named = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "system": "system", "messages": "messages"}
    columns = {named[ours]: theirs for ours, theirs in columns.items() if ours in named}
    return source | ({"columns": columns} if columns else {})


def _lengths(draft: Draft) -> None:
    stated = [key for key in _LENGTHS if draft.has(key)]
    if stated:
        draft.use("data.max_tokens", int(draft.number(*stated)), *stated)
    parts = [key for key in _PARTS if draft.has(key)]
    if parts:
        draft.no_effect("prompt and completion have one limit, data.max_tokens", *parts)
    mode = draft.get("truncation_mode")
    if mode is not None:
        policies = {"keep_end": "trim_prompt_start", "keep_start": "trim_completion_end"}
        draft.use(
            "data.on_too_long", policies.get(mode, "drop"), "truncation_mode", because="trims are counted and shown"
        )
    elif stated:
        draft.settings["data.on_too_long"] = "trim_completion_end"
        draft.remarks.append("longer rows: cut at the end as there, but counted, shown, and without an end token")
