"""The answers of a grid of win rates: drawn where they are missing, kept in the grid's folder, read from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exptilt.data.records import Text
from exptilt.disk import write_whole
from exptilt.errors import ConfigError, DataError, ExptiltError
from exptilt.evaluation.intervals import DEFAULT, Resampling
from exptilt.evaluation.kl import estimate_kl
from exptilt.judges.answer_files import PolicyAnswers, prompt_key, read_answers
from exptilt.judges.model_families import model_names, writer_names
from exptilt.policies.divergence import sequence_kl
from exptilt.policies.fingerprint import fingerprint
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.file_names import SAMPLED
from exptilt.sampling.generate import Sample, samples_as_groups
from exptilt.sampling.prompts_to_sample import AskedPrompt, distinct_prompts, readable_rows
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleFolder, SampleRow, prompt_id, read_samples
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import DataConfig
from exptilt.studies.judged_grid_settings import ROW_ANSWERS, JudgedGrid, slug
from exptilt.studies.prompted import examples_of, row_answers, until_separator, with_examples
from exptilt.studies.sampled_policies import GridPolicy, LocalPolicy, sampled_policies
from exptilt.wording import counted

Say = Callable[[str], None]
_KL = "kl.json"
_CHARACTERS = 3
"""Of one token, for what is not drawn yet; judges' tokens are counted by the same number."""


@dataclass(frozen=True)
class DataSet:
    """Prompts, with the rows' own answers."""

    label: str
    config: DataConfig
    asked: Sequence[AskedPrompt]
    own_answers: Mapping[str, str]
    """By prompt id."""
    temperatures: Sequence[float]

    @classmethod
    def read(cls, label: str, config: DataConfig, temperatures: Sequence[float]) -> DataSet:
        """Read the rows once, for prompts and answers."""
        rows = readable_rows(config)
        asked = distinct_prompts(rows, config.named).prompts
        return cls(label, config, asked, row_answers(rows.records), temperatures)


@dataclass(frozen=True)
class Cell:
    """One policy at one temperature and one step on one data set."""

    data: str
    policy: str
    temperature: float | None
    """None for a file of answers."""
    step: int | None = None
    """Of training, where it is known."""
    final: bool = True
    """False for a checkpoint on the way."""

    @property
    def title(self) -> str:
        """In one line."""
        step = "" if self.final else f" step {self.step}"
        warmth = "" if self.temperature is None else f" T={self.temperature:g}"
        return f"{self.policy}{step}{warmth}, {self.data}"


@dataclass(frozen=True)
class CellAnswers:
    """What was said in a cell, and by an opponent on the same prompts."""

    cell: Cell
    answers: PolicyAnswers
    opponent: PolicyAnswers
    kl: Estimate | None = None
    """Sequence-level KL from the reference, nats; at temperature 1 of the plain law only."""


def grid_answers(
    grid: JudgedGrid, say: Say, *, draws: bool = True, resampling: Resampling = DEFAULT
) -> list[CellAnswers]:
    """Answers of every cell but the opponent's own.

    Args:
        grid: which policies, prompts and temperatures.
        say: told what is drawn.
        draws: draw what is missing; otherwise texts of the greatest length stand for it, so that costs can be reckoned.
        resampling: of the KL.

    Raises:
        ExptiltError: a model, a server or rows cannot be used; what was drawn stays.
    """
    sets = [DataSet.read(*one) for one in grid.data_sets]
    judged = {one.id for each in sets for one in each.asked}
    cells: dict[Cell, PolicyAnswers] = {}
    kls: dict[Cell, Estimate] = {}
    for policy in sampled_policies(grid):
        examples = [] if policy.config.prompted is None else examples_of(policy.config.prompted, judged, grid.seed)
        for data in sets:
            for temperature in data.temperatures:
                cell = Cell(data.label, policy.title, temperature, policy.step, policy.final)
                work = _CellWork(grid, policy, data, cell, temperature, examples)
                rows = work.drawn(say) if draws else work.there()
                cells[cell] = work.answers(rows)
                kl = work.kl(rows, say, resampling) if draws else None
                if kl is not None:
                    kls[cell] = kl
        policy.release()
    for config in grid.policies:
        if config.answers is not None:
            cells |= {
                Cell(one.label, config.title, None): _from_file(config.answers, config.title, one) for one in sets
            }
    titles = {policy.title for policy in grid.judged_policies}
    opponents = _Opponents(grid, {one.label: one for one in sets}, cells)
    return [
        CellAnswers(cell, answers, opponents.of(cell), kls.get(cell))
        for cell, answers in cells.items()
        if cell.policy in titles
    ]


Rows = Mapping[tuple[str, int], SampleRow]
"""By prompt and number of the answer."""


@dataclass(frozen=True)
class _CellWork:
    """What there is to do for one cell: draw, read, measure."""

    grid: JudgedGrid
    policy: GridPolicy
    data: DataSet
    cell: Cell
    temperature: float
    examples: Sequence[tuple[Text, Text]]

    @property
    def folder(self) -> Path:
        return self.policy.folder / slug(self.data.label) / f"t-{self.temperature:g}"

    @property
    def request(self) -> SampleRequest:
        return self.grid.request(self.policy.config, self.data.config, self.temperature, self.folder)

    def there(self) -> Rows:
        """Rows that were drawn already."""
        if not (self.folder / SAMPLED).is_file():
            return {}
        wanted = {(one.id, index) for one in self.data.asked for index in range(self.request.num_samples)}
        return {key: row for row in read_samples(self.folder) if (key := (row.prompt_id, row.sample_index)) in wanted}

    def drawn(self, say: Say) -> Rows:
        """All rows of the cell, those that are missing drawn first."""
        request = self.request
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = SampleFolder(self.folder, request.identified(self.policy.identity + self._prompted()))
        wanted = {(one.id, index) for one in self.data.asked for index in range(request.num_samples)}
        missing = len(wanted - samples.done)
        if missing:
            say(f"{self.cell.title}: drawing {counted(missing, 'answer')}")
            for part in self.policy.rows(self._asked(), request, samples.done):
                samples.add(part)
        still = len(wanted - samples.done)
        if still:
            raise ExptiltError(
                f"{self.folder}: {counted(still, 'answer')} of {len(wanted):,} are missing; run the same command again"
            )
        return self.there()

    def _prompted(self) -> str:
        """What stands before every prompt, as a part of the identity of the samples."""
        settings = self.policy.config.prompted
        if settings is None:
            return ""
        nothing: Text = "" if isinstance(self.data.asked[0].prompt, str) else ()
        return f" prompted {prompt_id(with_examples(nothing, self.examples, settings))}"

    def _asked(self) -> Sequence[AskedPrompt]:
        settings = self.policy.config.prompted
        if settings is None:
            return self.data.asked
        return [replace(one, prompt=with_examples(one.prompt, self.examples, settings)) for one in self.data.asked]

    def answers(self, rows: Rows) -> PolicyAnswers:
        """The rows as answers to the bare prompts; a text of the greatest length stands for one that is missing."""
        found, request = PolicyAnswers(self.cell.title), self.request
        for one in self.data.asked:
            for index in range(request.num_samples):
                row = rows.get((one.id, index))
                longest = f"{self.cell.title} {index} ".ljust(_CHARACTERS * request.law.max_new_tokens, "x")
                said = longest if row is None else row.completion
                found.add(one.prompt, until_separator(said, self.policy.config.prompted, one.prompt))
        return found

    def kl(self, rows: Rows, say: Say, resampling: Resampling) -> Estimate | None:
        """Sequence-level KL from the reference on the cell's own samples; None where they are of another law or prompt.

        It is measured once for the same rows and weights.
        """
        policy, law, named = self.policy, self.request.law, self.grid.reference
        if not law.is_plain or policy.config.prompted is not None or not isinstance(policy, LocalPolicy):
            return None
        about = {
            "policy": policy.identity,
            "reference": "the run's own" if named is None else str(named.path),
            "rows": [f"{name}:{index}" for name, index in rows],
        }
        file = self.folder / _KL
        noted = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        if {name: noted.get(name) for name in about} != about:
            reference = policy.reference(named)
            if reference is None:
                return None
            say(f"{self.cell.title}: measuring KL on {counted(len(rows), 'answer')}")
            sums = sequence_kl(policy.weights, reference, samples_as_groups(_samples(rows, law))).kl
            noted = about | {"kl": sums.tolist(), "fingerprint": fingerprint(reference)}
            write_whole(file, json.dumps(noted) + "\n")
        return estimate_kl(noted["kl"], [name for name, _ in rows], law, resampling=resampling).kl


def _from_file(where: str, title: str, data: DataSet) -> PolicyAnswers:
    """Answers of a file to the prompts of a data set, all of them."""
    given, found = read_answers(where), PolicyAnswers(title)
    for one in data.asked:
        for answer in given.answers.get(prompt_key(one.prompt), ()):
            found.add(one.prompt, answer)
    if len(found.answers) < len(data.asked):
        gone = len(data.asked) - len(found.answers)
        raise DataError(
            f"{where}: has no answer to {counted(gone, 'prompt')} of {len(data.asked)} in {data.config.named}"
        )
    return found


def _samples(rows: Rows, law: SamplingLaw) -> list[Sample]:
    index = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in rows))}
    return [
        Sample(
            prompt_index=index[row.prompt_id],
            sample_index=row.sample_index,
            prompt=np.array(row.prompt_ids, np.int32),
            ids=np.array(row.completion_ids, np.int32),
            ended=row.ended,
            law=law,
        )
        for row in rows.values()
    ]


class _Opponents:
    """Whom each cell meets: the rows' own answers, a file's, or another policy at the same temperature."""

    def __init__(self, grid: JudgedGrid, sets: Mapping[str, DataSet], cells: Mapping[Cell, PolicyAnswers]) -> None:
        self._against, self._sets, self._cells = grid.against, sets, cells
        self._is_policy = grid.against in {policy.title for policy in grid.policies}
        self._by_set: dict[str, PolicyAnswers] = {}

    def of(self, cell: Cell) -> PolicyAnswers:
        if self._is_policy:
            return self._same_temperature(cell)
        if cell.data not in self._by_set:
            data = self._sets[cell.data]
            own = self._against in ROW_ANSWERS
            self._by_set[cell.data] = (
                _own(self._against, data) if own else _from_file(self._against, self._against, data)
            )
        return self._by_set[cell.data]

    def _same_temperature(self, cell: Cell) -> PolicyAnswers:
        for temperature in (cell.temperature, None):
            for other, met in self._cells.items():
                at = (other.data, other.policy, other.temperature, other.final)
                if at == (cell.data, self._against, temperature, True):
                    return replace(met, name=self._against)
        raise ConfigError(f"against: {self._against} has no answers at the temperature of {cell.title}")


def _own(against: str, data: DataSet) -> PolicyAnswers:
    found = PolicyAnswers(against)
    for one in data.asked:
        if one.id in data.own_answers:
            found.add(one.prompt, data.own_answers[one.id])
    gone = len(data.asked) - len(found.answers)
    if gone:
        raise DataError(
            f"{data.config.named}: {counted(gone, 'prompt')} of {len(data.asked)} have no {against} answer in their row; "
            "set against to a file or a policy, or leave those rows out"
        )
    return found


def policy_names(grid: JudgedGrid) -> dict[str, frozenset[str]]:
    """Everything that each policy is called and was made of, by its title."""
    by_title = {}
    for policy in grid.policies:
        path = None if policy.model is None else str(policy.model.path)
        named = path or (policy.server.model if policy.server is not None else None)
        by_title[policy.title] = model_names(named) if named else writer_names(str(policy.answers))
    return by_title
