"""Names of the files of a recipe with `rounds`: a run folder for each round, with its samples, votes and rows beside it.

round-1-samples/     completions of the model that the round begins with
round-1-votes.db     comparisons and votes, where a judge or people label
round-1-rows.jsonl   the preferences it trains on
round-1/             its run, an ordinary run folder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exptilt.run_folder.file_names import MODEL


@dataclass(frozen=True)
class RoundFiles:
    """Where the files of one round are.

    Example:
        >>> RoundFiles(Path("runs/x"), 2).rows.as_posix()
        'runs/x/round-2-rows.jsonl'
    """

    folder: Path
    """Of all rounds."""
    number: int

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / f"round-{self.number}"

    @property
    def model(self) -> Path:
        """The model that the round trains."""
        return self.run / MODEL

    @property
    def samples(self) -> Path:
        """Folder of the completions."""
        return self.folder / f"round-{self.number}-samples"

    @property
    def votes(self) -> Path:
        """The store of votes."""
        return self.folder / f"round-{self.number}-votes.db"

    @property
    def rows(self) -> Path:
        """The preferences; they are there once the round is labelled."""
        return self.folder / f"round-{self.number}-rows.jsonl"
