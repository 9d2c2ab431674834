"""The errors a person can meet.

    ExptiltError                anything exptilt refuses, in one line a person can act on
    |- ConfigError              a recipe, a key=value or a hyper-parameter (also a ValueError)
    |- DataError                a file, a row, a tokenised example (also a ValueError)
    |- ModelError               a model folder, a tokenizer, an architecture
    |- ServerError              a server that draws completions is gone, or gives what cannot be used
    |- CheckpointError          a run folder that cannot be resumed or read
    |- DiskError                a disk that refuses: full, read-only, failing
    |- Stopped                  no fault: somebody asked to stop, and the same command goes on
    |  `- Waiting               no fault: people are to vote first, and then the same command goes on
    `- TrainingError            the run itself: step 0 is not zero, a loss is not finite
       `- NonFiniteError        names the rows of the step that was stopped before weights moved

The command line prints the message of an `ExptiltError` and nothing else; of a disk's refusal that nobody expected, what the
system says. Any other exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import traceback


def _is_foreign(file: str) -> bool:
    """Whether a line of a traceback is exptilt's or another library's."""
    return file.startswith(os.path.dirname(__file__)) or "site-packages" in file or f"lib{os.sep}python" in file


class ExptiltError(Exception):
    """Base of everything exptilt raises on purpose; its text is one line for a person.

    Example:
        >>> try:
        ...     raise ConfigError("beta must be > 0, got -1")
        ... except ExptiltError as error:
        ...     print(error)
        beta must be > 0, got -1
    """

    told = False
    """Whether another process of the run says it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, and the last line of the user's own code on the way to it."""
        own = [frame for frame in traceback.extract_tb(self.__traceback__) if not _is_foreign(frame.filename)]
        where = [f"line {own[-1].lineno}: {own[-1].line}"] if own else []
        return [*where, f"{type(self).__name__}: {self}"]


class ConfigError(ExptiltError, ValueError):
    """A recipe, an override or a hyper-parameter is wrong."""


class DataError(ExptiltError, ValueError):
    """A file or a row cannot be used; the message names the file and the line or row."""


class ModelError(ExptiltError):
    """A model folder, a tokenizer or an architecture cannot be used."""


class ServerError(ExptiltError):
    """A server that draws completions for a run is gone or gives what cannot be used; the message names it and says what."""


class CheckpointError(ExptiltError):
    """A run folder or a checkpoint cannot be read, resumed or written."""


class DiskError(ExptiltError):
    """A disk refuses: it is full, read-only or fails; the message names the path and says what the system said."""


class Stopped(ExptiltError):
    """Somebody asked to stop; what was done is kept, and the same command goes on from there."""


class Waiting(Stopped):
    """People are to do something first; the message names what and where, and then the same command goes on."""


class TrainingError(ExptiltError):
    """The run itself stopped; the message says why and what to change."""


class NonFiniteError(TrainingError):
    """A loss or a gradient was not finite; the step was stopped before any weight moved."""
