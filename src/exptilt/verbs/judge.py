"""`exptilt judge`: policies against an opponent, a grid of policies, or judges against a benchmark."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from exptilt.disk import require_free, write_whole
from exptilt.errors import ConfigError, DataError
from exptilt.evaluation.intervals import DEFAULT, Resampling
from exptilt.evaluation.judged.benchmark_accuracy import BenchmarkAccuracy, benchmark_accuracy, by_rewards
from exptilt.evaluation.judged.judged_columns import Place, PlacedMatch, by_policy_alone, judged_record
from exptilt.evaluation.judged.judgements import Judgements
from exptilt.evaluation.judged.matches import JudgedMatches, Match, ask_each_once, judged_matches, verdict_columns
from exptilt.evaluation.judged.named_matches import named_matches
from exptilt.evaluation.judged.self_preference import kinships
from exptilt.evaluation.result import plain
from exptilt.judges.answer_files import paired_answers
from exptilt.judges.benchmark_files import BenchmarkItem, JudgeBenchmark, read_benchmark
from exptilt.judges.judge_label import judge_label, names_of_judge
from exptilt.judges.named_judges import JudgeOptions, named_judges
from exptilt.judges.remembered_judge import RememberedJudge
from exptilt.judges.reward_judge import RewardJudge
from exptilt.judges.server_judge import JudgeWork, ServerJudge
from exptilt.judges.yardsticks import YARDSTICKS, Oracle
from exptilt.preferences import Comparison, Judge
from exptilt.reports.judged_page import write_judged_page
from exptilt.reports.tables.judged_table import print_benchmark, print_faults, print_grid, print_judged, print_work
from exptilt.rewards.reward_by_name import reward_by_name
from exptilt.run_folder.file_names import JUDGED, JUDGED_GRID, REPORT_PAGE
from exptilt.run_folder.judged_record import Judged
from exptilt.votes.vote_store import VoteStore

if TYPE_CHECKING:
    from exptilt.studies.judged_grid import CellAnswers
    from exptilt.studies.judged_grid_settings import JudgedGrid

Confirm = Callable[[str], bool]
Columns = dict[str, dict[str, Judgements]]
"""Verdicts by judge and match."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Whom a command asks, and how: what all three ways of judging share."""

    judges: Sequence[str | Judge] = ()
    """Specs or judges, see `named_judges`."""
    store: str | Path = "votes.db"
    """Where votes and calls are, and go."""
    options: JudgeOptions = field(default_factory=JudgeOptions)
    dry_run: bool = False
    """Say what it would do, and end there."""
    confirm: Confirm = lambda question: False
    """Asked before texts leave this machine."""
    resampling: Resampling = DEFAULT


def judge_as_told(
    told: Sequence[str], against: str | None, benchmark: Path | None, asking: Asking, **where: Any
) -> None:
    """Do what a command line asks for: a benchmark, a grid, or plain files of answers.

    Args:
        told: files of answers or run folders; or the YAML file of a grid and what is laid over it.
        against: the opponent; over that of a grid.
        benchmark: a file of labelled pairs.
        asking: whom, and how.
        where: common, output, html and command, see `judge`.

    Raises:
        ConfigError: two of the three are asked for, or none.
    """
    if benchmark is not None:
        if told or against is not None or where["html"] is not None:
            raise ConfigError("--benchmark measures judges: leave answers, --against and --html out")
        judge_benchmark(benchmark, asking, output=where["output"])
    elif told and Path(told[0]).suffix in (".yaml", ".yml"):
        from exptilt.settings.load import load
        from exptilt.studies.judged_grid_settings import JudgedGrid

        if where["common"] or where["output"] is not None or where["html"] is not None:
            raise ConfigError(
                f"{told[0]}: a grid writes into its own folder; set output=FOLDER, and leave the options out"
            )
        stated = [] if against is None else [f"against={json.dumps(against)}"]
        judge_grid(load(JudgedGrid, told[0], [*told[1:], *stated]), asking, command=where["command"])
    elif told:
        judge(told, against, asking, **where)
    else:
        raise ConfigError("name the answers to judge, the YAML file of a grid, or --benchmark FILE")


def judge(
    policies: Sequence[str],
    against: str | None,
    asking: Asking,
    *,
    common: bool = False,
    output: Path | None = None,
    html: Path | None = None,
    command: str | None = None,
) -> dict[str, JudgedMatches]:
    """Ask judges about policies and tabulate their verdicts.

    Args:
        policies: files of answers or run folders.
        against: a file, a run folder, `reference` or `chosen` (columns of each policy's own file), or None: all pairs.
        asking: whom, and how.
        common: compare on the prompts that both sides have.
        output: a JSON file for the numbers.
        html: a page with figures.
        command: that makes these numbers again, for the page.

    Returns:
        The numbers of each judge; empty after a dry run.
    """
    _require_free(output)
    matches, writers = named_matches(policies, against, common)
    with _asked(asking, matches) as judges:
        if not judges:
            return {}
        columns = {label: verdict_columns(one, matches) for label, one in judges.items()}
    found = {name: judged_matches(by_match, matches, asking.resampling) for name, by_match in columns.items()}
    kin = kinships(columns, matches, _real(judges), writers, asking.resampling)
    print_judged(found, kin)
    print_faults(_faults(judges))
    if output is not None:
        numbers = plain(found) | ({"kin": plain(kin)} if kin else {})
        write_whole(output, json.dumps(numbers, indent=2) + "\n")
    if html is not None:
        placed = [PlacedMatch(Place(policy=match.one), match) for match in matches]
        record = judged_record(", ".join(policies), judges, columns, placed, kin, asking.resampling, command)
        write_judged_page(record, html)
        print(html)
    return found


def judge_grid(grid: JudgedGrid, asking: Asking, *, command: str | None = None) -> Judged | None:
    """Draw the answers of a grid where they are missing, ask judges, and write judged.json and the page in its folder.

    Args:
        grid: policies, temperatures, data sets.
        asking: whom, and how.
        command: that makes these numbers again.

    Returns:
        The record; None after a dry run.
    """
    from exptilt.processes.surroundings import left_as_found
    from exptilt.run_folder.lock import claimed
    from exptilt.settings.load import dump
    from exptilt.studies.judged_grid import grid_answers

    console = Console(stderr=True)
    if asking.dry_run:
        _judge_cells(grid, grid_answers(grid, console.print, draws=False), asking, command)
        return None
    with VoteStore(asking.store) as votes:  # what would stop it later stops it before hours of drawing
        _require_consent(named_judges(asking.judges, votes, asking.options, reward_by_name), asking.confirm)
    asking = replace(asking, confirm=lambda question: True)
    with claimed(grid.folder, "judged", grid.inputs) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        write_whole(grid.folder / JUDGED_GRID, dump(grid))
        with left_as_found():
            cells = grid_answers(grid, partial(console.print, highlight=False), resampling=asking.resampling)
        record = _judge_cells(grid, cells, asking, command)
        write_whole(grid.folder / JUDGED, json.dumps(record.as_dict(), indent=1) + "\n")
        page = write_judged_page(record, grid.folder / REPORT_PAGE)
    print_grid(record)
    print(page)
    return record


def _judge_cells(grid: JudgedGrid, cells: Sequence[CellAnswers], asking: Asking, command: str | None) -> Judged:
    """Ask judges about the cells; a record without judges after a dry run."""
    from exptilt.studies.judged_grid import policy_names

    placed = [
        PlacedMatch(
            Place(one.cell.policy, one.cell.data, one.cell.temperature, one.cell.step, one.cell.final, one.kl),
            Match(one.cell.title, one.opponent.name, *paired_answers(one.answers, one.opponent)),
        )
        for one in cells
    ]
    judges, columns = _asked_in_parts(_by_template(grid, placed, asking))
    together, policies = by_policy_alone(columns, placed)
    kin = kinships(together, policies, _real(judges), policy_names(grid), asking.resampling)
    return judged_record(grid.folder.name, judges, columns, placed, kin, asking.resampling, command)


def judge_benchmark(path: Path, asking: Asking, *, output: Path | None = None) -> dict[str, Any]:
    """How often judges prefer the answer that is known to be better, by section, each order counting alike.

    A tie of the judge counts one half where the label is a choice. Items whose label is a tie are counted and not
    scored, and so is an item whose answers are equal.
    """
    benchmark = read_benchmark(path)
    items = benchmark.items
    scored = [i for i in items if i.better is not None and i.comparison.answers[0] != i.comparison.answers[1]]
    if not scored:
        raise DataError(f"{path}: no item has a better answer")
    _require_free(output)
    with _opened(asking) as votes, _borrowed(asking):
        named = named_judges(asking.judges, votes, asking.options, reward_by_name)
        asked = [*named, Oracle({i.comparison.id: i.better for i in scored})]
        _announce(asked, [item.comparison for item in scored], {item.prompt for item in scored}, policies=1)
        if asking.dry_run:
            return {}
        _require_consent(asked, asking.confirm)
        found = {judge_label(one, asked): _accuracy(one, benchmark, scored, asking.resampling) for one in asked}
    result = {"benchmark": benchmark.name, "items": len(items), "scored": len(scored), "judges": found}
    print_benchmark(result)
    print_faults(_faults({judge_label(one, asked): one for one in asked}))
    if output is not None:
        write_whole(output, json.dumps(plain(result), indent=2) + "\n")
    return result


def _require_free(*files: Path | None) -> None:
    """Refuse files that could not be written, before anybody is asked."""
    for file in files:
        if file is not None:
            require_free(file)


@contextmanager
def _borrowed(asking: Asking) -> Iterator[None]:
    """The process given back as it was, where a judge or a reward loads a model into it."""
    loads = [not isinstance(spec, str) or spec.startswith(("local:", "reward:")) for spec in asking.judges]
    if any(loads) and not asking.dry_run:
        from exptilt.processes.surroundings import left_as_found

        with left_as_found():
            yield
    else:
        yield


@contextmanager
def _opened(asking: Asking) -> Iterator[VoteStore]:
    """The store; a dry run makes none where there is none."""
    if asking.dry_run and "://" not in str(asking.store) and not Path(asking.store).exists():
        with tempfile.TemporaryDirectory() as folder, VoteStore(Path(folder) / "votes.db") as empty:
            yield empty
    else:
        with VoteStore(asking.store) as opened:
            yield opened


@contextmanager
def _asked(asking: Asking, matches: Sequence[Match]) -> Iterator[dict[str, Judge]]:
    """The judges by label, after what they will do was said and allowed; none after a dry run."""
    with _opened(asking) as votes, _borrowed(asking):
        named = named_judges(asking.judges, votes, asking.options, reward_by_name)
        pairs = [pair for match in matches for pair in match.pairs]
        prompts = min(({*match.prompts} for match in matches), key=len)
        _announce(named, pairs, prompts, policies=len(matches))
        if asking.dry_run:
            yield {}
            return
        _require_consent(named, asking.confirm)
        votes.add_sources((pair, (match.one, match.other)) for match in matches for pair in match.pairs)
        yield {judge_label(one, named): one for one in named}


def _by_template(grid: JudgedGrid, placed: Sequence[PlacedMatch], asking: Asking) -> list[tuple[Asking, list[Match]]]:
    """The matches of each data set with what judges are asked there; one part where that is the same."""
    new = None if grid.new_data is None else grid.new_data.template
    if new is None or new == asking.options.template:
        return [(asking, [one.match for one in placed])]
    there = replace(asking, options=replace(asking.options, template=new))
    return [
        (asking, [one.match for one in placed if one.place.data == grid.label]),
        (there, [one.match for one in placed if one.place.data != grid.label]),
    ]


def _asked_in_parts(parts: Sequence[tuple[Asking, list[Match]]]) -> tuple[dict[str, Judge], Columns]:
    judges: dict[str, Judge] = {}
    columns: Columns = {}
    for asking, matches in parts:
        with _asked(asking, matches) as named:
            for label, one in named.items():
                judges.setdefault(label, one)
                columns.setdefault(label, {}).update(verdict_columns(one, matches))
    return judges, columns


def _real(judges: Mapping[str, Judge]) -> dict[str, frozenset[str]]:
    """What the judges that are no yardsticks are called and were made of."""
    return {label: names_of_judge(one) for label, one in judges.items() if one.name not in YARDSTICKS}


def _accuracy(
    judge: Judge, benchmark: JudgeBenchmark, items: Sequence[BenchmarkItem], resampling: Resampling
) -> BenchmarkAccuracy:
    if benchmark.is_best_of and isinstance(judge, RememberedJudge) and isinstance(judge.judge, RewardJudge):
        return by_rewards(items, judge.judge.reward, resampling)
    return benchmark_accuracy(benchmark, items, ask_each_once(judge, [item.comparison for item in items]), resampling)


def _faults(judges: Mapping[str, Judge]) -> dict[str, dict[str, int]]:
    return {label: one.faults for label, one in judges.items() if isinstance(one, ServerJudge)}


def _announce(judges: Sequence[Judge], pairs: Sequence[Comparison], prompts: set[str], policies: int) -> None:
    unique = {pair.id: pair for pair in pairs if pair.answers[0] != pair.answers[1]}
    work = {judge_label(j, judges): j.work(unique.values()) for j in judges if isinstance(j, ServerJudge)}
    total = (
        JudgeWork(*(sum(column) for column in zip(*[tuple(asdict(w).values()) for w in work.values()], strict=True)))
        if work
        else None
    )
    unpriced = any(j.prices.cost(1, 1) == 0 and not j.endpoint.is_local for j in judges if isinstance(j, ServerJudge))
    print_work(len(unique), work, total, len(prompts), several=policies > 1, unpriced=unpriced)


def _require_consent(judges: Sequence[Judge], confirm: Confirm) -> None:
    for judge in judges:
        if isinstance(judge, ServerJudge):
            judge.endpoint.key()  # whoever has none should hear of it before the question
    hosts = sorted({j.endpoint.host for j in judges if isinstance(j, ServerJudge) and not j.endpoint.is_local})
    for host in hosts:
        if not confirm(f"prompts and answers would be sent to {host}; go on?"):
            raise ConfigError(f"nothing was sent to {host}; add --yes to send prompts and answers there")
