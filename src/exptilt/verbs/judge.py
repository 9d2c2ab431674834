"""`exptilt judge`: policies against an opponent by any judges, or judges against a benchmark."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from exptilt.disk import require_free, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.evaluation.intervals import DEFAULT, Resampling
from exptilt.evaluation.judged.benchmark_accuracy import BenchmarkAccuracy, benchmark_accuracy, by_rewards
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.length_controlled import length_controlled_together
from exptilt.evaluation.judged.ratings import Ratings, rate
from exptilt.evaluation.judged.simultaneous import differences, simultaneous
from exptilt.evaluation.judged.win_rate import by_length_gap, win_rates
from exptilt.evaluation.power import minimum_detectable_difference
from exptilt.judges.answer_files import PolicyAnswers, paired_answers, read_answers
from exptilt.judges.benchmark_files import BenchmarkItem, JudgeBenchmark, read_benchmark
from exptilt.judges.named_judges import JudgeOptions, named_judges
from exptilt.judges.remembered_judge import RememberedJudge
from exptilt.judges.reward_judge import RewardJudge
from exptilt.judges.server_judge import JudgeWork, ServerJudge
from exptilt.judges.yardsticks import Oracle
from exptilt.preferences import Comparison, Judge, Verdict
from exptilt.reports.tables.judged_table import print_benchmark, print_faults, print_judged, print_work
from exptilt.rewards.reward_by_name import reward_by_name
from exptilt.votes.vote_store import VoteStore

Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class Match:
    """Two policies on the same prompts."""

    one: str
    other: str
    prompts: list[str]
    """(N,) the prompt's key of each comparison."""
    pairs: list[Comparison]


def judge(
    policies: Sequence[str],
    against: str | None,
    judges: Sequence[str],
    store: str | Path,
    options: JudgeOptions,
    *,
    dry_run: bool = False,
    common: bool = False,
    confirm: Confirm = lambda question: False,
    output: Path | None = None,
    resampling: Resampling = DEFAULT,
) -> dict[str, Any]:
    """Ask judges about policies and tabulate their verdicts.

    Args:
        policies: files of answers or run folders.
        against: a file, a run folder, `reference` or `chosen` (columns of each policy's own file), or None: all pairs.
        judges: specs, see `named_judges`.
        store: where votes and calls are, and go.
        options: what all judges share.
        dry_run: say what it would do, and end there.
        common: compare on the prompts that both sides have.
        confirm: asked before texts leave this machine.
        output: a JSON file for the numbers.
        resampling: bootstrap over prompts.

    Returns:
        The numbers of each judge and match; empty after a dry run.
    """
    if output is not None:
        require_free(output)
    matches = _matches(policies, against, common)
    with _opened(store, dry_run) as votes:
        asked = named_judges(judges, votes, options, reward_by_name)
        _announce(asked, [pair for match in matches for pair in match.pairs], [len(set(m.prompts)) for m in matches])
        if dry_run:
            return {}
        _require_consent(asked, confirm)
        votes.add_sources((pair, (match.one, match.other)) for match in matches for pair in match.pairs)
        found = {judge_label(judge, asked): _by_one_judge(judge, matches, resampling) for judge in asked}
    print_judged(found)
    print_faults(_faults(asked))
    if output is not None:
        write_whole(output, json.dumps(as_json(found), indent=2) + "\n")
    return found


def judge_benchmark(
    path: Path,
    judges: Sequence[str],
    store: str | Path,
    options: JudgeOptions,
    *,
    dry_run: bool = False,
    confirm: Confirm = lambda question: False,
    output: Path | None = None,
    resampling: Resampling = DEFAULT,
) -> dict[str, Any]:
    """How often judges prefer the answer that is known to be better, by section, each order counting alike.

    A tie of the judge counts one half where the label is a choice. Items whose label is a tie are counted and not
    scored, and so is an item whose answers are equal.
    """
    benchmark = read_benchmark(path)
    items = benchmark.items
    scored = [i for i in items if i.better is not None and i.comparison.answers[0] != i.comparison.answers[1]]
    if not scored:
        raise DataError(f"{path}: no item has a better answer")
    if output is not None:
        require_free(output)
    with _opened(store, dry_run) as votes:
        asked = [
            *named_judges(judges, votes, options, reward_by_name),
            Oracle({i.comparison.id: i.better for i in scored}),
        ]
        _announce(asked, [item.comparison for item in scored], [len({item.prompt for item in scored})])
        if dry_run:
            return {}
        _require_consent(asked, confirm)
        found = {judge_label(judge, asked): _accuracy(judge, benchmark, scored, resampling) for judge in asked}
    result = {"benchmark": benchmark.name, "items": len(items), "scored": len(scored), "judges": found}
    print_benchmark(result)
    print_faults(_faults(asked))
    if output is not None:
        write_whole(output, json.dumps(as_json(result), indent=2) + "\n")
    return result


@contextmanager
def _opened(store: str | Path, dry_run: bool) -> Iterator[VoteStore]:
    """The store; a dry run makes none where there is none."""
    if dry_run and "://" not in str(store) and not Path(store).exists():
        with tempfile.TemporaryDirectory() as folder, VoteStore(Path(folder) / "votes.db") as empty:
            yield empty
    else:
        with VoteStore(store) as opened:
            yield opened


def judge_label(judge: Judge, all_of_them: Sequence[Judge]) -> str:
    """A judge's name, with its question where several judges bear that name."""
    alike = [other for other in all_of_them if other.name == judge.name]
    return judge.name if len(alike) == 1 else f"{judge.name} #{alike.index(judge) + 1}"


def ask_each_once(judge: Judge, pairs: Iterable[Comparison]) -> dict[str, list[tuple[float, bool]]]:
    """Verdicts by comparison, as (share for the smaller of the two sorted answers, whether it was shown first).

    A comparison that occurs twice is asked once; two equal answers are a tie and are not asked about.
    """
    unique = {pair.id: pair for pair in pairs}
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for pair in unique.values():
        if pair.answers[0] == pair.answers[1]:
            found[pair.id] += [(0.5, True), (0.5, False)]
    different = [pair for pair in unique.values() if pair.answers[0] != pair.answers[1]]
    for verdict in judge(different):
        pair = unique[verdict.comparison]
        smaller = 0 if pair.answers[0] < pair.answers[1] else 1
        found[pair.id].append((_share(verdict, smaller), verdict.order[0] == smaller))
    return found


def _share(verdict: Verdict, position: int) -> float:
    """How far a verdict is for the answer at a position; NaN where it says nothing."""
    if verdict.outcome in ("unscored", "skip"):
        return float("nan")
    if verdict.outcome in ("tie", "both_bad"):
        return 0.5
    if verdict.probability is not None:
        return verdict.probability if verdict.order[0] == position else 1 - verdict.probability
    return float(verdict.winner == position)


def _by_one_judge(judge: Judge, matches: Sequence[Match], resampling: Resampling) -> dict[str, Any]:
    answers = ask_each_once(judge, [pair for match in matches for pair in match.pairs])
    index = {key: number for number, key in enumerate(dict.fromkeys(key for match in matches for key in match.prompts))}
    columns = {f"{match.one} against {match.other}": _judgements(match, answers, index) for match in matches}
    measured: dict[str, Any] = {}
    controlled = length_controlled_together({name: j for name, j in columns.items() if j.scored.any()}, resampling)
    for name, asked in columns.items():
        measured[name] = {
            "rates": win_rates(asked, resampling),
            "length_controlled": controlled.get(name),
            "by_length_gap": dict(by_length_gap(asked, resampling=resampling)),
        }
    return {
        "matches": measured,
        "differences": _paired(columns, len(index), resampling),
        "ratings": _rated(matches, columns, resampling),
    }


def _judgements(match: Match, answers: Mapping[str, list[tuple[float, bool]]], index: Mapping[str, int]) -> Judgements:
    rows: list[tuple[str, float, bool, float]] = []
    for key, pair in zip(match.prompts, match.pairs, strict=True):
        mine_is_smaller = pair.answers[0] <= pair.answers[1]
        gap = float(len(pair.answers[0]) - len(pair.answers[1]))
        for share, smaller_first in answers[pair.id]:
            rows.append((key, share if mine_is_smaller else 1 - share, smaller_first == mine_is_smaller, gap))
    prompts, wins, first, gaps = zip(*rows, strict=True)
    return Judgements([index[key] for key in prompts], np.array(wins), np.array(first), np.array(gaps))


def _paired(columns: Mapping[str, Judgements], num_prompts: int, resampling: Resampling) -> dict[str, Any]:
    """Paired differences of matches on the prompts that all of them have, and intervals that hold together."""
    table = np.stack([_prompt_means(asked, num_prompts) for asked in columns.values()], axis=1)
    known = table[~np.isnan(table).any(axis=1)]
    if len(columns) < 2 or len(known) < 2:
        return {}
    names = list(columns)
    return {
        "together": dict(zip(names, simultaneous(known, resampling), strict=True)),
        "pairs": {
            f"{names[i]} minus {names[j]}": one
            for (i, j), one in differences(known, range(len(known)), resampling).items()
        },
    }


def _prompt_means(asked: Judgements, num_prompts: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    rows, prompts = asked.scored, np.asarray(asked.prompts)
    count = np.bincount(prompts[rows], minlength=num_prompts).astype(np.float64)
    wins = np.bincount(prompts[rows], np.asarray(asked.wins)[rows], minlength=num_prompts).astype(np.float64)
    return np.divide(wins, count, out=np.full_like(wins, np.nan), where=count > 0)


def _rated(matches: Sequence[Match], columns: Mapping[str, Judgements], resampling: Resampling) -> Ratings | None:
    names = list(dict.fromkeys(name for match in matches for name in (match.one, match.other)))
    if len(names) < 3:
        return None
    first, second, wins, prompts = [], [], [], []
    for match in matches:
        asked = columns[f"{match.one} against {match.other}"]
        one, other = names.index(match.one), names.index(match.other)
        shown = np.asarray(asked.shown_first)
        first += np.where(shown, one, other).tolist()
        second += np.where(shown, other, one).tolist()
        wins += np.where(shown, asked.wins, 1 - np.asarray(asked.wins)).tolist()
        prompts += np.asarray(asked.prompts).tolist()
    return rate(names, first, second, wins, prompts, resampling) if np.isfinite(wins).any() else None


def _accuracy(
    judge: Judge, benchmark: JudgeBenchmark, items: Sequence[BenchmarkItem], resampling: Resampling
) -> BenchmarkAccuracy:
    if benchmark.is_best_of and isinstance(judge, RememberedJudge) and isinstance(judge.judge, RewardJudge):
        return by_rewards(items, judge.judge.reward, resampling)
    return benchmark_accuracy(benchmark, items, ask_each_once(judge, [item.comparison for item in items]), resampling)


def _matches(policies: Sequence[str], against: str | None, common: bool) -> list[Match]:
    if against is None and len(policies) < 2:
        raise ConfigError("name an opponent with --against, or several policies to compare all pairs of them")
    answers = [read_answers(where) for where in policies]
    if len({one.name for one in answers}) < len(answers):
        answers = [PolicyAnswers(where, one.prompts, one.answers) for where, one in zip(policies, answers, strict=True)]
    if against is None:
        chosen = list(combinations(answers, 2))
    elif against in ("reference", "chosen"):
        others = [read_answers(where, against, f"{against}") for where in policies]
        chosen = list(zip(answers, others, strict=True))
    else:
        opponent = read_answers(against)
        chosen = [(one, opponent) for one in answers]
    return [Match(one.name, other.name, *paired_answers(one, other, common=common)) for one, other in chosen]


def _announce(judges: Sequence[Judge], pairs: Sequence[Comparison], prompts: Sequence[int]) -> None:
    unique = {pair.id: pair for pair in pairs if pair.answers[0] != pair.answers[1]}
    work = {judge_label(j, judges): j.work(unique.values()) for j in judges if isinstance(j, ServerJudge)}
    total = (
        JudgeWork(*(sum(column) for column in zip(*[_numbers_of(w) for w in work.values()], strict=True)))
        if work
        else None
    )
    detectable = minimum_detectable_difference(min(prompts), sd=0.5, correlation=0.27)
    print_work(len(unique), work, total, detectable)


def _numbers_of(work: JudgeWork) -> tuple[Any, ...]:
    """The numbers of a piece of work."""
    return tuple(asdict(work).values())


def _faults(judges: Sequence[Judge]) -> dict[str, dict[str, int]]:
    return {judge_label(judge, judges): judge.faults for judge in judges if isinstance(judge, ServerJudge)}


def _require_consent(judges: Sequence[Judge], confirm: Confirm) -> None:
    for judge in judges:
        if isinstance(judge, ServerJudge):
            judge.endpoint.key()  # whoever has none should hear of it before the question
    hosts = sorted({j.endpoint.host for j in judges if isinstance(j, ServerJudge) and not j.endpoint.is_local})
    for host in hosts:
        if not confirm(f"prompts and answers would be sent to {host}; go on?"):
            raise ConfigError(f"nothing was sent to {host}; add --yes to send prompts and answers there")


def as_json(value: Any) -> Any:
    """Numbers as mappings and lists, as a JSON file holds them."""
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(one) for one in value]
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
