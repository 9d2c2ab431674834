"""The files of a data set on the hub: listed once, and fetched one by one while their rows are read."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from exptilt.data.read import hub
from exptilt.data.read.files import kind_of
from exptilt.disk import cache_folder, is_refusal, reason, write_whole
from exptilt.errors import DataError, DiskError
from exptilt.wording import in_one_line

_TRIES = 4
"""How often a file is asked for where the hub is in trouble; waits between them are 1, 2 and 4 seconds."""
_LONGEST = 140
"""Characters of what the hub's client says, so that the line around it stays readable."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_EVERY_LOADER = {"name", "version", "data_dir", "data_files", "description"}
"""Settings of a loader of datasets that say where its files are, and not how they are read."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a data set."""

    path: str
    """In the repository."""
    digest: str
    """Of the content: SHA-256 of a large file, git's blob id of another."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of one split, under one commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None

    @property
    def content(self) -> str:
        """What decides the rows: names and digests of the files, whatever else the repository's commits change."""
        return json.dumps([[asdict(file) for file in self.files], self.licence])

    def fetched(self) -> Iterator[Path]:
        """The files on this machine, in the hub client's cache; each is fetched when it is asked for, if it is not there.

        Raises:
            DataError: the hub does not give a file.
            DiskError: the disk does not take it.
        """
        return (self._fetched(file) for file in self.files)

    def _fetched(self, file: HubFile) -> Path:
        for attempt in range(_TRIES):
            try:
                path = self._asked(file)
                # The client trusts what is in its cache; a file that something else has cut is fetched once more.
                return path if path.stat().st_size == file.size else self._asked(file, force_download=True)
            except Exception as error:  # huggingface_hub and its client each raise their own
                if is_refusal(error):
                    raise DiskError(f"{self.repository}: {file.path} cannot be kept: {reason(error)}") from None
                if not hub.is_reachable():
                    raise DataError(
                        f"{self.repository}: the hub cannot be reached, and {file.path} is not among the files that were "
                        "fetched before"
                    ) from None
                if attempt == _TRIES - 1 or not _may_pass(error):
                    why = in_one_line(error, _LONGEST)
                    raise DataError(
                        f"{self.repository}: the hub does not give {file.path}: {why}; run it again, whole files stay"
                    ) from None
            time.sleep(2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _asked(self, file: HubFile, **options: Any) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.repository, file.path, repo_type="dataset", revision=self.commit, **options))


@cache
def files_on_hub(source: str, split: str, subset: str | None, revision: str | None) -> HubFiles | None:
    """The files of a data set of the hub, listed once per process, so that every reader sees the same content.

    A listing is remembered on disk: without a network, or where the revision is a commit, it is taken from there.

    Returns:
        None where our readers do not read the files as the data set wants them read; then datasets reads them.

    Raises:
        DataError: the hub can be reached and has no such data set, or fails.
    """
    record = cache_folder("hub") / f"{_name(source, split, subset, revision)}.json"
    known = _remembered(record)
    if known is not None and revision is not None and _COMMIT.fullmatch(revision):
        return known
    if not hub.is_reachable():
        return known
    try:
        listed = _listed(source, split, subset, revision)
    except Exception as error:  # datasets, huggingface_hub and its client each raise their own
        why = in_one_line(error, _LONGEST)
        advice = "; set HF_HUB_OFFLINE=1 to use what was fetched before" if known is not None else ""
        raise DataError(f"{source}: no such file here, and the hub gives no data set: {why}{advice}") from None
    if listed is not None and listed != known:
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            write_whole(record, json.dumps(asdict(listed)))
        except (OSError, DiskError):
            return listed  # the hub is asked again next time
    return listed


def _listed(source: str, split: str, subset: str | None, revision: str | None) -> HubFiles | None:
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    loader = datasets.load_dataset_builder(source, subset, revision=revision)
    urls = list((loader.config.data_files or {}).get(split, ()))
    matches = [re.fullmatch(rf"hf://datasets/{re.escape(source)}@([0-9a-f]{{40}})/(.+)", url) for url in urls]
    paths = [match[2] for match in matches if match is not None and kind_of(Path(match[2])) is not None]
    if not urls or len(paths) < len(urls) or _has_own_settings(loader.config):
        return None
    commit = next(match[1] for match in matches if match is not None)
    there = HfApi().get_paths_info(source, paths, revision=commit, repo_type="dataset")
    of_path = {entry.path: entry for entry in there if isinstance(entry, RepoFile)}
    files = tuple(_described(of_path[path]) for path in paths)
    return HubFiles(source, commit, files, loader.info.license or _licence(source, commit))


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may help: the server failed, or sent less than it promised. The client tries the rest again itself."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status >= 500 if isinstance(status, int) else type(error) is OSError


def _described(file: Any) -> HubFile:
    return HubFile(file.path, file.lfs.sha256 if file.lfs is not None else file.blob_id, file.size)


def _has_own_settings(config: Any) -> bool:
    """Whether a data set says how its files are to be read: a separator, a field that holds the rows, a selection of columns."""
    plain = type(config)()
    names = [field.name for field in fields(config) if field.name not in _OF_EVERY_LOADER]
    own = {name for name in names if getattr(config, name) != getattr(plain, name)}
    return bool(own - ({"sep"} if getattr(config, "sep", None) == "\t" else set()))


def _licence(source: str, commit: str) -> str | None:
    """What the data set's card says of its licence."""
    from huggingface_hub import DatasetCard, hf_hub_download

    try:
        card = hf_hub_download(source, "README.md", repo_type="dataset", revision=commit)
        said = DatasetCard.load(card).data.license
    except Exception:  # no card, or one that cannot be read: no licence is known
        return None
    return ", ".join(said) if isinstance(said, list) else said


def _name(*asked: str | None) -> str:
    from huggingface_hub import constants

    return blake2b(json.dumps([constants.ENDPOINT, *asked]).encode(), digest_size=16).hexdigest()


def _remembered(record: Path) -> HubFiles | None:
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        files = tuple(HubFile(**file) for file in said.pop("files"))
        return HubFiles(**said, files=files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
