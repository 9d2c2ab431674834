"""What `exptilt sample` writes: one row for each completion, appended and never changed. Never imports torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exptilt.data.records import TemplateArgs, Text
from exptilt.disk import append, refusals, write_whole
from exptilt.errors import CheckpointError, DataError
from exptilt.run_folder.file_names import SAMPLED, SAMPLING


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One completion of one prompt.

    Example:
        >>> row = SampleRow(prompt_id=prompt_id("2 + 2?"), prompt="2 + 2?", sample_index=0, completion="4", ended=True)
        >>> SampleRow.read(json.loads(row.line()), "a") == row
        True
    """

    prompt_id: str
    """Digest of the prompt, equal for equal prompts."""
    prompt: Text
    sample_index: int
    """0, 1, ... among the completions of the prompt."""
    completion: str
    ended: bool
    """False where the completion was cut at the greatest length."""
    prompt_ids: tuple[int, ...] | None = None
    """Token ids of the prompt; None where a server drew."""
    completion_ids: tuple[int, ...] | None = None
    """Token ids as they were drawn, the end token included; None where a server drew."""
    logps: tuple[float, ...] | None = None
    """Nats, of each id under the model's own distribution, whatever the law."""
    answer: str | None = None
    """The right answer, where the source of the prompt says one."""
    template_args: dict[str, Any] | None = None
    """What the row gave the chat template besides the turns."""

    def line(self) -> str:
        """As it stands in the file."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return (
            json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False) + "\n"
        )

    @classmethod
    def read(cls, row: Any, where: str) -> SampleRow:
        """A row as it stands in the file.

        Raises:
            DataError: it is none.
        """
        try:
            said = dict(row)
            said["prompt"] = said["prompt"] if isinstance(said["prompt"], str) else tuple(said["prompt"])
            for name in ("prompt_ids", "completion_ids", "logps"):
                if said.get(name) is not None:
                    said[name] = tuple(said[name])
            return cls(**said)
        except KeyError as error:
            raise DataError(f"{where}: is no row of samples (it has no {error})") from None
        except (TypeError, ValueError) as error:
            wrong = str(error).replace("SampleRow.__init__() missing", "it lacks").replace("SampleRow.__init__()", "it")
            raise DataError(f"{where}: is no row of samples ({wrong})") from None


def prompt_id(prompt: Text, template_args: TemplateArgs | None = None) -> str:
    """32 hexadecimal digits, equal for equal prompts with equal arguments for the chat template.

    Example:
        >>> prompt_id("a") == prompt_id("a"), prompt_id("a") == prompt_id("b"), prompt_id("a") == prompt_id("a", {"tools": ["t"]})
        (True, False, False)
    """
    said = prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    content = json.dumps([said, dict(template_args)] if template_args else said, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class SampleFolder:
    """The folder of one request: how was drawn, and rows that are only ever appended.

    A process that is killed leaves whole rows and at most the beginning of one, which the next opening removes.

    Args:
        path: the folder; claimed by the caller.
        request: everything that decides what is drawn, as YAML.

    Raises:
        CheckpointError: it holds samples of another request.
    """

    def __init__(self, path: Path, request: str) -> None:
        self.path = path
        self._file = path / SAMPLED
        kept = path / SAMPLING
        if kept.exists() and kept.read_text("utf-8") != request:
            raise CheckpointError(
                f"{path}: holds samples of another request ({_first_difference(kept.read_text('utf-8'), request)}); "
                "set another output"
            )
        if not kept.exists():
            write_whole(kept, request)
        self._remove_half_a_row()
        self.done = (
            {(row.prompt_id, row.sample_index) for row in read_samples(self._file)} if self._file.exists() else set()
        )
        """Completions that are in the file, by prompt and number."""

    def add(self, rows: Iterable[SampleRow]) -> None:
        """Append rows that are not there yet, and wait until they are on disk."""
        new = [row for row in rows if (row.prompt_id, row.sample_index) not in self.done]
        if not new:
            return
        append(self._file, "".join(row.line() for row in new))
        with refusals(self._file), self._file.open("rb") as file:
            os.fsync(file.fileno())
        self.done |= {(row.prompt_id, row.sample_index) for row in new}

    def _remove_half_a_row(self) -> None:
        if not self._file.exists():
            return
        with refusals(self._file), self._file.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                begin = max(0, end - 65536)
                file.seek(begin)
                at = file.read(end - begin).rfind(b"\n")
                if at >= 0:
                    end = begin + at + 1
                    break
                end = begin
            if end < size:
                file.truncate(end)


def read_samples(path: Path) -> Iterator[SampleRow]:
    """Rows of a folder or file of samples.

    Raises:
        DataError: there is none, or a line is no row of samples.
    """
    file = path / SAMPLED if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: holds no samples (there is no {SAMPLED}); draw some with `exptilt sample`")
    with refusals(file), file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                raise DataError(f"{file}:{number}: is not valid JSON; is `exptilt sample` still at work?") from None
            yield SampleRow.read(row, f"{file}:{number}")


def model_of_samples(path: Path) -> str | None:
    """The model that a folder's samples were drawn from, by name; None of a file that says nothing of it."""
    stated = path / SAMPLING
    if not stated.is_file():
        return None
    request = yaml.safe_load(stated.read_text("utf-8"))
    for section, name in (("server", "model"), ("model", "path"), ("model", "adapter")):
        value = (request.get(section) or {}).get(name)
        if value:
            return str(value)
    return None


def _first_difference(old: str, new: str) -> str:
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    one, other = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("more settings", "fewer"))
    return f"{one!r} then, {other!r} now"
