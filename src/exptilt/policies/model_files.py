"""The files of a model's folder, checked before any library that could load them is imported.

What is looked at: that the folder is there and is a model's, its JSON files, that every file of weights is there and whole, and the
tokenizer's files. A hub id is asked for its small files alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exptilt.data.read.hub import is_id, is_reachable
from exptilt.disk import reason
from exptilt.errors import ConfigError, ModelError
from exptilt.in_memory import from_memory, is_in_memory
from exptilt.wording import in_one_line, nearest

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
CONFIG, ADAPTER = "config.json", "adapter_config.json"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_LARGE = (".safetensors", ".bin", ".json", ".model")
"""Kinds of files that git-lfs keeps apart."""
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Weights:
    """The weights that files hold, by their headers."""

    shapes: Mapping[str, tuple[int, ...]]
    size: int
    """Bytes of all of them."""

    @property
    def total(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def trained_by_adapter(self, rank: int, targets: Sequence[str]) -> int:
        """Number of weights of a low-rank adapter, at the least: two matrices beside every layer that it is put around."""
        linear = [
            shape
            for name, shape in self.shapes.items()
            if len(shape) == 2 and name.endswith(".weight") and not re.search(r"embed|lm_head|wte|wpe", name)
            if tuple(targets) == ("all-linear",) or name.removesuffix(".weight").rpartition(".")[2] in targets
        ]
        return sum(rank * sum(shape) for shape in linear)


def check_folder(path: str, kind: str, files: tuple[str, ...]) -> None:
    """Tell a wrong folder apart from a hub id before transformers asks the network for it.

    Raises:
        ModelError: there is no such folder, or it holds none of the files.
    """
    if _is_held(path):
        return
    folder = Path(path).expanduser()
    if not folder.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
            raise ModelError(f"{path}: no such folder{_neighbour(folder)}")
        if "/" in path and _neighbour(folder):
            raise ModelError(f"{path}: no such folder{_neighbour(folder)}")
        is_reachable()  # if it is not, the hub's client looks into its cache at once instead of trying for a minute
        return
    if not folder.is_dir():
        raise ModelError(f"{path}: is a file; give the folder of a {kind} saved by transformers")
    if any((folder / name).is_file() for name in files):
        return
    raise ModelError(f"{path}: is no {kind} folder, {' or '.join(files)} is not in it{_model_inside(folder, files)}")


def pointer_in(folder: Path) -> Path | None:
    """A file of a model's folder of which only git-lfs's pointer was fetched."""
    small = (path for path in sorted(folder.glob("*.*")) if path.suffix in _LARGE and path.stat().st_size < 1024)
    return next((path for path in small if path.read_bytes().startswith(b"version https://git-lfs")), None)


def check_model_files(path: str, *, revision: str | None = None) -> Weights | None:
    """Check the files of a model or adapter, and those of the adapter's base.

    Returns:
        The weights of the model, of the base where it is an adapter; None where files do not tell: of a hub id, or no safetensors.

    Raises:
        ModelError: a file is missing, cut off, or no JSON.
    """
    if _is_held(path):
        return None
    folder = Path(path).expanduser()
    if not folder.exists():
        check_folder(path, "model", (CONFIG,))
        _check_on_hub(path, (CONFIG, ADAPTER), revision)
        return None
    if (folder / ADAPTER).is_file():
        return _check_adapter(folder)
    check_folder(path, "model", (CONFIG, ADAPTER))
    pointer = pointer_in(folder)
    if pointer is not None:
        raise ModelError(f"{pointer}: this is a git-lfs pointer, not the weights; run `git lfs pull` in {path}")
    config = read_json(folder / CONFIG)
    if "model_type" not in config and "auto_map" not in config:
        raise ModelError(f"{folder / CONFIG}: says no model_type, so nobody knows what model this is")
    return _weights_of(folder, _WEIGHTS, path)


def check_adapter_files(path: str) -> None:
    """Check the files of an adapter that training goes on with.

    Raises:
        ModelError: it is no adapter, or a file is missing, cut off, or no JSON.
    """
    if _is_held(path):
        return
    folder = Path(path).expanduser()
    if folder.exists():
        check_folder(path, "adapter", (ADAPTER,))
        read_json(folder / ADAPTER)
        _weights_of(folder, _ADAPTER_WEIGHTS, path)
    elif not is_id(path):
        raise ModelError(f"{path}: no such folder{_neighbour(folder)}")


def check_tokenizer_files(path: str, *, revision: str | None = None) -> None:
    """Check the files of a tokenizer.

    Raises:
        ModelError: there are none, or one is no JSON.
    """
    if _is_held(path):
        return
    folder = Path(path).expanduser()
    if (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        path = str(read_json(folder / ADAPTER).get("base_model_name_or_path") or path)
        folder = Path(path).expanduser()
    check_folder(path, "tokenizer", TOKENIZER_FILES)
    if not folder.is_dir():
        _check_on_hub(path, TOKENIZER_FILES, revision)
        return
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            read_json(folder / name)


def _is_held(path: str) -> bool:
    """Whether a path is the name of an object of this program, which has no files.

    Raises:
        ModelError: of another program's.
    """
    try:
        return is_in_memory(path) and from_memory(path) is not None
    except ConfigError as error:
        raise ModelError(str(error)) from None


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        ModelError: it cannot be read, or is no JSON mapping.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {reason(error)}") from None
    except ValueError as error:
        lfs = path.read_bytes().startswith(b"version https://git-lfs")
        more = "a git-lfs pointer; run `git lfs pull`" if lfs else f"no valid JSON ({in_one_line(error)})"
        raise ModelError(f"{path}: is {more}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: must hold a JSON mapping, it holds a {type(values).__name__}")
    return values


def _check_adapter(folder: Path) -> Weights | None:
    settings = read_json(folder / ADAPTER)
    _weights_of(folder, _ADAPTER_WEIGHTS, str(folder))
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{folder / ADAPTER}: names no base model (base_model_name_or_path); write its folder or hub id there"
        )
    place = Path(base).expanduser()
    if str(base).startswith(("/", ".", "~")) and not place.is_dir():
        raise ModelError(
            f"{folder / ADAPTER}: its base model {base} is not there; put it back, or write its new place into "
            "base_model_name_or_path"
        )
    if (place / ADAPTER).is_file():
        raise ModelError(f"{folder}: is an adapter on another adapter ({base}); merge that one into its base first")
    return check_model_files(str(base), revision=settings.get("revision"))


def _weights_of(folder: Path, names: Sequence[str], path: str) -> Weights | None:
    """The weights of a folder; None where they are kept in another form than safetensors."""
    for index in _INDEXES if names is _WEIGHTS else ():
        if (folder / index).is_file():
            shards = sorted(set(map(str, (read_json(folder / index).get("weight_map") or {}).values())))
            missing = [name for name in shards if not (folder / name).is_file()]
            if missing:
                also = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise ModelError(f"{path}: {missing[0]}{also} is missing, which {index} lists; fetch the model again")
            return _whole([folder / name for name in shards])
    for name in names:
        if (folder / name).is_file():
            return _whole([folder / name])
    others = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.gguf"), *folder.glob("*.h5")]
    if others or (folder / "quantize_config.json").is_file():
        return None  # whoever loads it says more
    raise ModelError(f"{path}: holds no weights: {' or '.join(names)} is not in it")


def _whole(files: Sequence[Path]) -> Weights | None:
    if any(file.suffix != ".safetensors" for file in files):
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes.update(_header(file))
    return Weights(shapes, sum(file.stat().st_size for file in files))


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights in a safetensors file.

    Raises:
        ModelError: the file is no safetensors file, or is cut off.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(_LONGEST_HEADER, max(0, size - 8)):
            raise ModelError(f"{file}: is no whole safetensors file ({size:,} bytes); fetch or save it again")
        try:
            entries = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ModelError(f"{file}: its header cannot be read; fetch or save it again") from None
    needed = 8 + length + max(ends, default=0)
    if size < needed:
        raise ModelError(f"{file}: is cut off: {size:,} of {needed:,} bytes; fetch or save it again")
    return ((name, tuple(entry["shape"])) for name, entry in entries.items() if name != "__metadata__")


def _check_on_hub(path: str, names: Sequence[str], revision: str | None) -> None:
    """Refuse a hub id that has none of these files, here or there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    is_reachable()
    for name in names:
        try:
            hf_hub_download(path, name, revision=revision)
        except LocalEntryNotFoundError:
            continue  # no network, and not in the cache
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises many kinds
            raise ModelError(f"{path}: cannot be fetched from the hub ({in_one_line(error)})") from None
        return
    where = "no folder of that name here, and neither the hub nor its cache has"
    raise ModelError(f"{path}: {where} {' or '.join(names[:2])} of it{_neighbour(Path(path))}")


def _neighbour(folder: Path) -> str:
    """`; did you mean ...?` where a folder nearby has a similar name."""
    try:
        names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    near = nearest(folder.name, names)
    return f"; did you mean {folder.parent / near}?" if near else ""


def _model_inside(folder: Path, files: Sequence[str]) -> str:
    """`; did you mean ...?` where a folder inside is such a folder: the model of a run."""
    inside = [folder / "model", *sorted(path for path in folder.iterdir() if path.is_dir())[:50]]
    found = next((path for path in inside if any((path / name).is_file() for name in files)), None)
    return f"; did you mean {found}?" if found else ""
