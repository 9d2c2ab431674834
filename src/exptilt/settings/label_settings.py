"""Settings of `exptilt label`: what people compare, who they are, and how work is handed out. Never imports torch."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range

Strategy = Literal["random", "uncertain", "disagree"]


@config
class LabelRules:
    """How work is handed out."""

    questions: tuple[str, ...] = ("better",)
    """What is asked of each comparison, one after the other; `better` is shown as "Which answer is better?"."""
    wanted: Annotated[int, Range(ge=1)] = 1
    """People who vote on each comparison."""
    repeats: Annotated[float, Range(ge=0, le=0.5)] = 0.07
    """Share of comparisons that a person is silently asked again, in the reverse order."""
    next: Strategy = "random"
    """Which comparison comes first: uncertain, those with the smallest margins; disagree, those on which raters differ."""
    lease_minutes: Positive = 30.0
    """How long a comparison stays with the person who opened it."""
    seed: int = 0
    """Of the order of comparisons and sides."""

    def __post_init__(self) -> None:
        if not self.questions or any(not question.strip() for question in self.questions):
            raise ValueError("questions must be at least one, and none empty")
        if len(set(self.questions)) < len(self.questions):
            raise ValueError("questions must differ from each other")


@config
class LabelRequest:
    """What `exptilt label` opens."""

    sources: tuple[str, ...]
    """Files of pairs, rankings or samples, folders of samples, runs, or one store of votes."""
    store: str = "votes.db"
    """A file, or a postgresql:// URL."""
    people: tuple[str, ...] = ()
    """Names; each gets a link of their own. None: whoever starts the page votes."""
    rules: LabelRules = LabelRules()
    guide: str | None = None
    """A Markdown file with guidelines."""
    known: str | None = None
    """A file of pairs whose chosen side is known to be right; they are mixed in, and measure accuracy per person."""
    rank: bool = False
    """Whether samples of a prompt are ranked together, up to seven at once, instead of compared in pairs."""
    host: str = "127.0.0.1"
    port: Annotated[int, Range(ge=0, le=65535)] | None = None
    """None takes the first free one from 8765; 0 takes any."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names under which browsers may ask, such as that of a proxy."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must name at least one file or folder, got none")
        for name in self.people:
            if not 1 <= len(name.strip()) <= 60 or any(unicodedata.category(letter)[0] == "C" for letter in name):
                raise ValueError(f"people must have names of 1 to 60 printable letters, got {name!r}")
        folded = [name.strip().casefold() for name in self.people]
        if len(set(folded)) < len(folded):
            raise ValueError("people must have names that differ from each other")
        if not self.is_local and not self.people:
            raise ValueError(
                f"host {self.host} is open to other machines: name everybody with --people, so that each has a link"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can open the page."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
