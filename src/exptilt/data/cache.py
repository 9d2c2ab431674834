"""The disk cache of tokenised data, keyed by content, so that a second run maps it instead of making it again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exptilt.data.groups import Group
from exptilt.data.read import hub
from exptilt.data.read.hub_files import files_on_hub
from exptilt.data.read.places import files_of, is_on_hub, place_of
from exptilt.data.table import GroupTable
from exptilt.disk import cache_folder
from exptilt.in_memory import is_in_memory
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.declaration import as_dict
from exptilt.settings.source_settings import SourceConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_GROUPS = 2000
"""Fewer groups than this are made again faster than they are worth keeping."""
_BLOCK = 1 << 20


class Cached(NamedTuple):
    """The content of a cache folder."""

    train: Sequence[Group]
    test: Sequence[Group]
    report: DataReport


@dataclass(frozen=True, slots=True)
class DataCache:
    """The cache folder of one data set under one tokenizer and one set of settings.

    The name of the folder is a digest of everything the groups depend on: the sources' bytes, the settings, the
    tokenizer with its chat template, and the code of this package. Writing is atomic; a folder is complete or absent.
    """

    folder: Path

    @classmethod
    def of(
        cls, config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, kind: str, max_tokens: int | None
    ) -> DataCache | None:
        """The cache for this data; None if its content has no files to identify it, or if there is no tokenizer.

        A hub data set is looked up here, in the hub's current revision, and identified by the digests that the hub gives
        of its files, of which none is fetched for it.

        Raises:
            DataError: if neither the hub nor its cache has a data set that is named by an id.
        """
        if tokenizer is None or not tokenizer.is_fast:
            return None
        key = content_key(config, [kind, max_tokens, tokenizer_settings(tokenizer)])
        return None if key is None else cls(cache_folder("data") / key)

    def read(self) -> Cached | None:
        """Read the groups, mapped from files, and the report; None if they are not cached."""
        if not self.folder.is_dir():
            return None
        report = DataReport.from_dict(json.loads((self.folder / "report.json").read_text(encoding="utf-8")))
        train, test = (GroupTable.load(self.folder / f"{name}.arrow") for name in ("train", "test"))
        return Cached(train, test, report)

    def write(self, content: Cached) -> None:
        """Write groups and report, if there are enough groups for it to pay and the disk has room."""
        if len(content.train) < LEAST_GROUPS or self.folder.exists():
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=self.folder.parent))
        except OSError:
            return
        try:
            for name, groups in (("train", content.train), ("test", content.test)):
                table = groups if isinstance(groups, GroupTable) else GroupTable.of(groups)
                table.save(temporary / f"{name}.arrow")
            (temporary / "report.json").write_text(json.dumps(content.report.as_dict()), encoding="utf-8")
            temporary.rename(self.folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)


def content_key(config: DataConfig, more: Sequence[Any]) -> str | None:
    """A digest of the sources' bytes, of the settings, of this code, and of more; None if there are no files to identify them.

    Raises:
        DataError: if neither the hub nor its cache has a data set that is named by an id.
    """
    sources = [*config.sources, *config.held_out_sources]
    known = [_known_content(source) for source in sources]
    files = [_files(source) for source, content in zip(sources, known, strict=True) if content is None]
    if not all(files):
        return None
    paths = [path for some in files for path in some]
    digest = blake2b(digest_size=16)
    settings = [as_dict(replace(config, workers=None)), *more, known]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in dict.fromkeys([*paths, Path(__file__).parent]):
        try:
            for part in _contents(path):
                digest.update(part)
        except OSError:
            return None  # the next reader reports the error
    return digest.hexdigest()


def _known_content(source: SourceConfig) -> str | None:
    """What decides the rows of a hub data set whose files are known, or of rows in memory; None for any other source."""
    listed = None
    if is_in_memory(source.path):
        return source.path
    if is_on_hub(source.path):
        listed = files_on_hub(source.path, source.split, source.subset, source.revision)
    return None if listed is None else listed.content


def _files(source: SourceConfig) -> tuple[Path, ...]:
    """Files or folders that hold all rows of a source; empty if there are no such files."""
    if is_on_hub(source.path):
        return hub.files_of(hub.data_set(source.path, source.split, source.subset, source.revision))
    path = place_of(source.path)
    return (path,) if path is not None and path.is_dir() else tuple(files_of(source.path, source.split))


def tokenizer_settings(tokenizer: Any) -> list[Any]:
    """Everything that decides how a fast tokenizer reads text and renders turns, as JSON could hold it."""
    core = tokenizer.backend_tokenizer.to_str()
    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return [type(tokenizer).__name__, core, tokenizer.chat_template, specials, tokenizer.special_tokens_map]


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, of all files of a folder with their names, or of a package's source."""
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    for file in files:
        if file.suffix == ".pyc":
            continue
        yield f"\x1c{file.name}\x1c{file.stat().st_size}\x1c".encode()
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                yield block
