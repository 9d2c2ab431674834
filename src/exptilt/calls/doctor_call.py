"""`xt.doctor`: rows checked before a run, and what a run would say of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from exptilt.calls.evaluate_call import model_path
from exptilt.calls.public_call import public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.errors import ConfigError
from exptilt.in_memory import holding
from exptilt.kinds import Kind
from exptilt.progress import no_bars
from exptilt.run_folder.data_record import DataReport
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.model_settings import ModelConfig


@config
class _Checked:
    """Rows that are checked, and the model whose tokenizer renders them."""

    data: DataConfig
    model: ModelConfig = ModelConfig()


@public_call
def doctor(
    rows: Any,
    *,
    model: Any = None,
    tokenizer: Any = None,
    loss: Any = None,
    data: Any = None,
    quiet: bool = False,
) -> DataReport:
    """Check rows as a run does before step 1, and print what is wrong with them and which objective fits them.

    Args:
        rows: in any form that `xt.train` takes.
        model: a model, a run, a folder or a hub id, for its tokenizer and its context; by default only text is checked.
        tokenizer: an object, a folder or a hub id.
        loss: the objective they are for, an object or a name; by default the one that fits their labels.
        data: section `data`: what happens to faulty rows, rendering, lengths.
        quiet: print nothing.

    Returns:
        The report: `refusal` says why a run would refuse the rows (empty: it would take them), `findings` every problem
        with the rows it is in, `train` counts, shares and lengths (tokens).

    Raises:
        ExptiltError: the rows cannot be read at all, or an argument is wrong.

    Example:
        >>> import exptilt as xt
        >>> rows = [{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}, {"prompt": "1 + 1 =", "chosen": "", "rejected": " 3"}]
        >>> report = xt.doctor(rows, quiet=True)
        >>> report.refusal, report.findings[0].code, report.findings[0].examples
        ('1 kind of error', 'empty', ('rows:2',))
        >>> xt.doctor(rows, data={"on_empty": "drop"}, quiet=True).train.kept
        1
    """
    keywords = RecipeKeywords("xt.doctor")
    with ExitStack() as stack:
        keywords.section("data", data)
        keywords.rows(rows)
        _put_tokenizer(keywords, model_path(model), tokenizer, stack)
        wanted: _Checked = keywords.build(_Checked)
        stack.enter_context(holding(*keywords.held))
        if quiet:
            stack.enter_context(no_bars())
        kind = _kind(wanted.data, loss)
        report = _checked(wanted, kind)
        if not quiet:
            _print(report, wanted.data, kind)
    return report


def _put_tokenizer(keywords: RecipeKeywords, model: Any, tokenizer: Any, stack: ExitStack) -> None:
    if model is None and tokenizer is not None:
        keywords.model(None, tokenizer)
    elif model is not None:
        keywords.model(model, tokenizer, stack)


def _kind(data: DataConfig, loss: Any) -> Kind:
    """The kind of the objective, else of the rows."""
    from exptilt.data.kind_of_rows import kind_of_rows
    from exptilt.settings.loss_choice import choice_of

    if isinstance(loss, type):
        raise ConfigError(f"xt.doctor: loss: {loss.__name__} is a class; write loss=xt.{loss.__name__}()")
    return kind_of_rows(data) if loss is None else choice_of(loss).kind


def _checked(wanted: _Checked, kind: Kind) -> DataReport:
    from exptilt.data.prepared import prepare

    data = wanted.data if kind.is_trained else replace(wanted.data, on_duplicate="drop")  # as `exptilt sample` does
    if wanted.model.path is None and wanted.model.tokenizer is None:
        return prepare(data, None, kind, strict=False).report
    from exptilt.policies.architecture import declared_context
    from exptilt.runs.run_tokenizer import named_tokenizer

    tokenizer = named_tokenizer(wanted.model)
    return prepare(data, tokenizer, kind, declared_context(wanted.model, tokenizer), strict=False).report


def _print(report: DataReport, data: DataConfig, kind: Kind) -> None:
    from rich.console import Console

    from exptilt.data.account.data_terminal import print_report
    from exptilt.runs.method_advice import advise

    console = Console()
    print_report(report, console)
    if not kind.scores and report.refusal != "nothing is left to use":
        console.print(str(advise(data, kind, report)), highlight=False, markup=False, soft_wrap=True)
    refusal = f"a run would refuse these data: {report.refusal}" if report.refusal else "a run would take these data"
    console.print(refusal, style="bold red" if report.refusal else "green")
