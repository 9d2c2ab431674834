"""`exptilt doctor`: the first phase of a run alone, so that data faults cost seconds and not hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.data.account.data_terminal import print_report, show_examples
from exptilt.data.batching import Batches, budget_use
from exptilt.data.kind_of_rows import kind_of_rows
from exptilt.data.prepared import Prepared, prepare
from exptilt.errors import ConfigError, DataError
from exptilt.kinds import Kind
from exptilt.policies.model_files import check_tokenizer_files
from exptilt.run_folder.data_record import DataReport
from exptilt.runs.method_advice import advise
from exptilt.settings.data_settings import BatchConfig, DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.load import load
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.recipe import Recipe

_STEPS = 50
"""Steps whose micro-batches are looked at; an epoch of them says no more."""


def doctor(
    source: str,
    overrides: Sequence[str],
    model: str | None,
    as_json: bool,
    num_examples: int,
    *,
    html: Path | None = None,
    reference_check: bool = False,
) -> int:
    """Check data and print the report.

    Args:
        source: a recipe (.yaml), or a data file, folder or hub id.
        overrides: `key=value`, over the recipe or, for data alone, over the `data` section (`data.limit=100`).
        model: folder or hub id whose tokenizer is used; by default the recipe's own.
        as_json: print data.json's content instead of text.
        num_examples: rendered examples to show, where there is a tokenizer.
        html: path of a page to write the report to as well.
        reference_check: load the model too, and see whether it knows such text and which pairs are likely to displace.

    Returns:
        0, or 1 if a run would refuse this data.
    """
    if html is not None:  # before the work, not after it
        from exptilt.reports.page_files import require_reports

        require_reports([html], "--html")
    subject = _subject(source, overrides, model)
    if subject.recipe is not None and subject.recipe.rounds is not None:
        return _doctor_rounds(subject, as_json)
    if reference_check:
        _require_reference(subject)
    from exptilt.runs.checks.installation import installation_findings

    *earlier, (_, prepared) = subject.phases()
    if reference_check:
        prepared = _with_reference_check(subject, prepared)
    report = prepared.report.adding(*installation_findings())
    refusals = [f"{name}: {rows.report.refusal}" for name, rows in earlier if rows.report.refusal]
    refusal = "; ".join([*refusals, *([report.refusal] if report.refusal else [])])
    console = Console()
    if as_json:
        print(json.dumps(report.as_dict() | {name: rows.report.as_dict() for name, rows in earlier}, indent=1))
    else:
        for name, rows in earlier:
            console.rule(f"{name}, the phase before")
            print_report(rows.report, console)
            console.rule()
        print_report(report, console)
        if subject.tokenizer is not None:
            show_examples(prepared.train, subject.tokenizer, console, num_examples)
    if html is not None:
        from exptilt.reports.doctor_page import write_doctor_page

        write_doctor_page(report, html)
    if not as_json:
        _print_advice(subject, report, console)
        _print_verdict(_verdict(subject.kind, refusal), bool(refusal), html, console)
    return int(bool(refusal))


def _print_advice(subject: _Subject, report: DataReport, console: Console) -> None:
    """Say in one line which objective fits the rows; a reward model has its own."""
    if subject.kind.scores or report.refusal == "nothing is left to use":
        return
    advice = advise(subject.data, subject.kind, report)
    if advice.loss or subject.kind.is_trained:
        console.print(str(advice), highlight=False, markup=False)


def _print_verdict(verdict: str, is_refused: bool, html: Path | None, console: Console) -> None:
    console.print(verdict, style="bold red" if is_refused else "green")
    if html is not None:
        console.print(str(html), markup=False, highlight=False, soft_wrap=True)


def _verdict(kind: Kind, refusal: str) -> str:
    if not kind.is_trained:
        taken = "these are prompts alone: `exptilt sample` draws completions of them, and there is nothing to train on"
        return f"`exptilt sample` would refuse these prompts: {refusal}" if refusal else taken
    return f"a run would refuse these data: {refusal}" if refusal else "a run would take these data"


def _require_reference(subject: _Subject) -> None:
    """Refuse to look at a reference where there is none."""
    if subject.kind.scores:
        raise ConfigError(
            "--reference-check looks at the reference of a policy; a reward model has none, so leave it out"
        )
    if subject.tokenizer is None or subject.model is None:
        raise ConfigError(
            "--reference-check needs a model: name one with --model, or give a recipe with model.path "
            "or with model.config and model.tokenizer"
        )


def _doctor_rounds(subject: _Subject, as_json: bool) -> int:
    """Check what a recipe with rounds begins with; the rows it trains on do not exist yet."""
    from exptilt.runs.rounds.round_work import check_rounds

    checked = check_rounds(subject.recipe, subject.tokenizer)
    if as_json:
        print(json.dumps(asdict(checked), indent=1))
        return int(bool(checked.refusal))
    console = Console()
    longest = "" if checked.longest_prompt is None else f", the longest of {checked.longest_prompt:,} tokens"
    console.print(f"{checked.num_prompts:,} different prompts{longest}", highlight=False)
    console.print("\n".join(checked.lines), highlight=False, soft_wrap=True)
    refusal = checked.refusal
    verdict = f"these rounds would stop: {refusal}" if refusal else "a run would begin with these prompts"
    console.print(verdict, style="bold red" if refusal else "green", soft_wrap=True)
    return int(bool(refusal))


@config
class _Alone:
    """Data that is examined without a recipe."""

    data: DataConfig


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The subject of an examination: data, the kind of objective, and the model if one is named."""

    data: DataConfig
    kind: Kind
    tokenizer: Any
    model: Any = None
    """Settings of the model that is the reference, if one is named."""
    sft_first: bool = False
    """Whether that model is fine-tuned on this text before it is the reference."""
    context: int | None = None
    """The longest sequence of that model, tokens."""
    recipe: Any = None
    """The recipe, where there is one."""
    seed: int = 0

    def phases(self) -> list[tuple[str, Prepared]]:
        """Rows of every phase of the run; data alone count as one phase."""
        if self.recipe is not None:
            from exptilt.runs.run_rows import check_phases

            return [(phase.name, phase.rows) for phase in check_phases(self.recipe, self.tokenizer)]
        data = (
            self.data if self.kind.is_trained else replace(self.data, on_duplicate="drop")
        )  # as `exptilt sample` does
        rows = prepare(data, self.tokenizer, self.kind, self.context, strict=False)
        if rows.train and self.kind.is_trained:
            settings = BatchConfig()
            batches = Batches(rows.train, settings)
            first_steps = (batches.step(step) for step in range(min(_STEPS, batches.num_steps)))
            rows = replace(rows, report=rows.report.adding(budget_use(first_steps, settings.at_once).finding()))
        return [("", rows)]


def _subject(source: str, overrides: Sequence[str], model: str | None) -> _Subject:
    named_model = ModelConfig(path=model) if model else None
    if Path(source).suffix in (".yaml", ".yml"):
        return _of_recipe(source, overrides, named_model)
    wrong = [item for item in overrides if not item.startswith("data.")]
    if wrong:
        raise ConfigError(f"command line: {wrong[0]!r}: without a recipe only data.* keys can be set (data.limit=100)")
    settings = load(_Alone, None, [f"data.train={json.dumps(source)}", *overrides]).data
    if named_model is None:
        return _Subject(data=settings, kind=kind_of_rows(settings), tokenizer=None)
    check_tokenizer_files(str(named_model.path))
    from exptilt.policies.architecture import declared_context
    from exptilt.runs.run_tokenizer import named_tokenizer

    tokenizer = named_tokenizer(named_model)
    context = declared_context(named_model, tokenizer)
    return _Subject(data=settings, kind=kind_of_rows(settings), tokenizer=tokenizer, model=named_model, context=context)


def _of_recipe(source: str, overrides: Sequence[str], named_model: ModelConfig | None) -> _Subject:
    recipe = load(Recipe, source, overrides)  # first: a mistake in a recipe does not wait for torch
    from exptilt.policies.architecture import declared_context

    named = named_model or recipe.model
    reference, sft_first = named, named_model is None and (recipe.sft is not None or recipe.loss.kind.imitates)
    if named_model is None and recipe.reference.model is not None:
        reference, sft_first = ModelConfig(path=recipe.reference.model, dtype=recipe.model.dtype), False
    tokenizer = _tokenizer_of(named, recipe.data)
    return _Subject(
        data=recipe.data,
        kind=recipe.loss.kind,
        tokenizer=tokenizer,
        model=reference,
        context=declared_context(named, tokenizer) if tokenizer is not None else None,
        recipe=replace(recipe, model=named),
        sft_first=sft_first,
        seed=recipe.seed,
    )


def _tokenizer_of(model: Any, data: DataConfig) -> Any:
    """The run's tokenizer; None if the recipe names no model yet, or if rows are too faulty to train one on."""
    from exptilt.runs.run_tokenizer import find_tokenizer

    if model.path is None and model.config is None:
        return None
    try:
        return find_tokenizer(model, data)
    except DataError:
        return None  # the report on the rows says what is wrong with them


def _with_reference_check(subject: _Subject, prepared: Prepared) -> Prepared:

    from exptilt.processes.surroundings import left_as_found

    with left_as_found():
        return _checked_with_model(subject, prepared)


def _checked_with_model(subject: _Subject, prepared: Prepared) -> Prepared:
    from exptilt.policies.device import model_on_device
    from exptilt.policies.models import load_model
    from exptilt.runs.checks.ches_filter import ches_finding, leave_out_displacing
    from exptilt.runs.checks.familiarity import check_reference

    model = model_on_device(load_model(subject.model, subject.tokenizer, seed=subject.seed))
    findings = [check_reference(model, subject.tokenizer, prepared, sft_first=subject.sft_first, seed=subject.seed)]
    if not subject.sft_first:  # otherwise training starts from weights that do not exist yet
        prepared = leave_out_displacing(model, prepared, subject.data.drop_highest_ches, kind=subject.kind)
        ches = ches_finding(model, prepared.train)
        findings += [ches] if ches is not None else []
    return replace(prepared, report=prepared.report.adding(*findings))
