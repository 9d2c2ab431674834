"""Side files of a model's folder that still hold after training: processors, chat templates, code, generation notes, terms of use."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download

_KEPT = (".json", ".jinja", ".py", ".txt", ".model", ".tiktoken", ".bpe", ".yaml", ".yml")
_STALE = (
    "*.index.json",
    "adapter_config.json",
    "trainer_state.json",
    "training_args*",
    "all_results.json",
    "eval_results.json",
    "train_results.json",
    "quantization_config.json",
    "quantize_config.json",
    "quant_config.json",
    "requirements.txt",
    "run.json",
    "added_tokens.json",
)
"""True of the weights, the training or the environment that the folder came from, not of what is saved now."""
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template*",
    "chat_templates*",
    "*.model",
    "*.tiktoken",
    "*.bpe",
    "tokenization_*.py",
)
_TERMS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
"""Terms under which the weights may be used and passed on, with whatever suffix."""
_FOLDERS = ("additional_chat_templates", "chat_templates")


def copy_side_files(source: str, target: Path, *, revision: str | None = None, own_tokenizer: bool = True) -> list[str]:
    """Copy files of a model's folder beside weights and config that `target` does not hold yet.

    Args:
        source: folder or hub id a model was loaded from; of an id, what the cache has where the hub cannot be asked.
        target: the folder being written; nothing in it is replaced.
        revision: revision of a hub id.
        own_tokenizer: whether the tokenizer is the source's own; if not, its files do not hold any more.

    Returns:
        Names of what was copied, sorted.
    """
    folder = _folder(source, revision)
    if folder is None:
        return []
    copied = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or not _travels(name, own_tokenizer) or (target / name).exists():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        copied.append(str(name))
    return copied


def _travels(name: Path, own_tokenizer: bool) -> bool:
    if len(name.parts) == 1 and any(name.match(pattern) for pattern in _TERMS):
        return True
    if name.suffix not in _KEPT or any(part.startswith(".") for part in name.parts):
        return False
    if len(name.parts) > 1 and name.parts[0] not in _FOLDERS and name.suffix != ".py":
        return False
    if any(Path(name.name).match(pattern) for pattern in _STALE) or name.name == "config.json":
        return False
    return own_tokenizer or not any(Path(part).match(pattern) for part in name.parts for pattern in _TOKENIZER)


def _folder(source: str, revision: str | None) -> Path | None:
    if not source:  # made from scratch
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        return None
    patterns = [*(f"*{suffix}" for suffix in _KEPT), *_TERMS]
    for local in (False, True):
        with suppress(OSError, ValueError):
            return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=local))
    return None
