"""What people compare: items from pairs, rankings, samples, runs or a store of votes, each comparison once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from exptilt.data.memory.spill import Shelf
from exptilt.data.read.source_records import read_part
from exptilt.data.records import Preference, Ranking, Record, Text, words_of
from exptilt.data.stage_account import Decisions
from exptilt.errors import DataError
from exptilt.judges.answer_files import PolicyAnswers, prompt_key, read_answers
from exptilt.people.image_items import has_images, image_rows
from exptilt.preferences import Comparison
from exptilt.run_folder.file_names import CONFIG, SAMPLED, SAMPLING
from exptilt.sampling.sample_rows import read_samples
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.source_settings import SourceConfig
from exptilt.votes.vote_store import VoteStore

MOST_ANSWERS = 7
"""More answers than a person can rank at once."""
RIGHT, WRONG = "known answer: right", "known answer: wrong"
"""Sources of the answers of a comparison whose better answer is known."""
_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A comparison, and what only the owner may know of it."""

    comparison: Comparison
    sources: tuple[str, ...] = ()
    """Who wrote the answers, in the comparison's order; empty where nobody says."""
    margin: float | None = None
    """How far the first answer is better than the second, on the file's own scale."""
    right: int | None = None
    """Position of the answer that is known to be better."""
    folder: Path | None = None
    """Where pictures lie, for an item with pictures."""
    id: str = field(init=False)
    """The comparison's id, a digest that is taken once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.comparison.id)


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a page, each comparison once, and what was left out."""

    items: tuple[Item, ...]
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows by the reason why they are not asked about."""


def read_items(sources: Sequence[str], known: str | None = None, *, rank: bool = False) -> Items:
    """Read everything that is to be compared.

    Args:
        sources: files of pairs or rankings; files or folders of samples, which are compared with each other; runs; or
            one store of votes.
        known: a file of pairs whose chosen side is right.
        rank: rank up to seven samples of a prompt at once instead of pairing them.

    Raises:
        DataError: a source cannot be read, or nothing in it has two answers.
    """
    left_out: Counter[str] = Counter()
    found: dict[str, Item] = {}
    for item in _known_items(known, left_out) if known else ():
        found.setdefault(item.id, item)
    for item in _items(sources, rank, left_out):
        key = item.id
        if len(set(item.comparison.answers)) < 2:
            left_out["the same text on both sides"] += 1
        elif len(item.comparison.answers) > MOST_ANSWERS:
            left_out[f"more than {MOST_ANSWERS} answers"] += 1
        elif key in found:
            left_out["a comparison that is there already"] += 1
        else:
            found[key] = item
    if not any(item.right is None for item in found.values()):
        reasons = "; ".join(f"{count:,} with {reason}" for reason, count in left_out.items())
        raise DataError(
            f"{sources[0]}: holds no two different answers to one prompt; give pairs, rankings or samples"
            + (f" (left out: {reasons})" if reasons else "")
        )
    return Items(tuple(found.values()), left_out)


def _items(sources: Sequence[str], rank: bool, left_out: Counter[str]) -> Iterator[Item]:
    pools: list[PolicyAnswers] = []
    for source in sources:
        path = Path(source).expanduser()
        if "://" in source or _is_store(path):
            yield from _stored(source)
        elif _is_samples(path):
            pools.append(_samples(path))
        elif path.is_dir() and (path / CONFIG).exists() and (path / SAMPLED).exists():
            pools += [read_answers(str(path), "policy"), read_answers(str(path), "reference", "reference")]
        elif has_images(source):
            yield from _pictures(source, left_out)
        else:
            alone = PolicyAnswers(path.name.split(".")[0])
            yield from _records(source, alone, left_out)
            if alone.answers:
                pools.append(alone)
    if len(pools) == 1:
        yield from _within(pools[0], rank, left_out)
    elif pools:
        yield from _across(pools, left_out)


def _records(source: str, alone: PolicyAnswers, left_out: Counter[str]) -> Iterator[Item]:
    """Items of rows with two answers or more; completions that stand alone in their row go to `alone`."""
    records = Shelf[Record]()
    part = read_part(SourceConfig(path=source), records, Decisions(DataConfig(train=source).decisions))
    for code, count in part.account.left_out.items():
        noted = part.account.noted[code]
        left_out[noted.detail or code.replace("_", " ")] += count
    for record in records:
        if isinstance(record, Preference):
            pair = Comparison(record.prompt, (words_of(record.chosen), words_of(record.rejected)))
            yield Item(comparison=pair, sources=("chosen", "rejected"), margin=record.margin)
        elif isinstance(record, Ranking):
            if len(record.completions) < 2:
                left_out["a single answer"] += 1
                continue
            answers = tuple(words_of(completion) for completion in record.completions)
            margin = record.scores[0] - record.scores[1] if record.scores and len(answers) == 2 else None
            yield Item(comparison=Comparison(record.prompt, answers), margin=margin)
        elif not words_of(record.prompt).strip():
            left_out["a text without a prompt"] += 1
        elif not record.completions:
            left_out["a prompt without an answer"] += 1
        else:
            alone.add(record.prompt, words_of(record.completions[0]))


def _pictures(source: str, left_out: Counter[str]) -> Iterator[Item]:
    for row in image_rows(source, left_out):
        yield Item(comparison=row.comparison, sources=row.sources, folder=row.folder)


def _known_items(source: str, left_out: Counter[str]) -> Iterator[Item]:
    alone = PolicyAnswers(source)
    pairs = _pictures(source, left_out) if has_images(source) else _records(source, alone, left_out)
    some = False
    for item in pairs:
        if item.sources == ("chosen", "rejected") and len(set(item.comparison.answers)) == 2:
            some = True
            yield replace(item, sources=(RIGHT, WRONG), right=0)
    if not some:
        raise DataError(f"{source}: no row has a chosen and a rejected answer, so none of them is known to be right")


def _within(pool: PolicyAnswers, rank: bool, left_out: Counter[str]) -> Iterator[Item]:
    """Of one pool: the first sample of a prompt meets the second, the third the fourth; or all are ranked."""
    for key, texts in pool.answers.items():
        answers = list(dict.fromkeys(texts))
        if len(answers) < len(texts):
            left_out["a sample that says what another one says"] += len(texts) - len(answers)
        if len(answers) == 1:
            left_out["a single answer"] += 1
            continue
        size = MOST_ANSWERS if rank else 2
        for start in range(0, len(answers), size):
            chunk = answers[start : start + size]
            if len(chunk) < 2:
                left_out["no other sample beside it"] += 1
            else:
                yield Item(comparison=Comparison(pool.prompts[key], tuple(chunk)))


def _across(pools: Sequence[PolicyAnswers], left_out: Counter[str]) -> Iterator[Item]:
    """Of several pools: the k-th sample of each meets the k-th of every other."""
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        names = [f"{name} #{number}" for number, name in enumerate(names, start=1)]
    for one in range(len(pools)):
        for other in range(one + 1, len(pools)):
            first, second = pools[one].answers, pools[other].answers
            left_out["a prompt that only one side answers"] += len(first.keys() ^ second.keys())
            for key in (key for key in first if key in second):
                left_out["no sample of the other side beside it"] += abs(len(first[key]) - len(second[key]))
                for answers in zip(first[key], second[key], strict=False):
                    pair = Comparison(pools[one].prompts[key], answers)
                    yield Item(comparison=pair, sources=(names[one], names[other]))
    for reason in [reason for reason, count in left_out.items() if not count]:
        del left_out[reason]


def _samples(path: Path) -> PolicyAnswers:
    pool = PolicyAnswers(path.name if path.is_dir() else path.parent.name or path.stem)
    for row in sorted(read_samples(path), key=lambda row: row.sample_index):
        pool.add(row.prompt, row.completion)
    return pool


def _stored(source: str) -> Iterator[Item]:
    with VoteStore(source, create=False) as store:
        origins = store.sources()
        for key, comparison in store.comparisons().items():
            writers = origins.get(key, {})
            names = tuple(writers[at][0] if writers.get(at) else "" for at in range(len(comparison.answers)))
            right = names.index(RIGHT) if RIGHT in names else None
            yield Item(comparison=comparison, sources=names if all(names) else (), right=right)


def _is_store(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _is_samples(path: Path) -> bool:
    if path.is_dir():
        return (path / SAMPLING).exists() and (path / SAMPLED).exists()
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return '"sample_index"' in file.readline(1 << 20)


def prompts_of_items(items: Iterable[Item]) -> dict[str, str]:
    """The prompt of each comparison as a key, for intervals that take the prompt as the unit."""
    return {item.id: prompt_key(item.comparison.prompt) for item in items}


def is_chat(prompt: Text) -> bool:
    """Whether a prompt is turns of a conversation."""
    return not isinstance(prompt, str)
