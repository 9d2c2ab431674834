"""`xt.evaluate`: a model measured on held-out rows, against a reference."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exptilt.calls.public_call import messages, public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.calls.run_result import RunResult
from exptilt.errors import ConfigError
from exptilt.in_memory import holding
from exptilt.progress import no_bars
from exptilt.run_folder.data_record import DataReport
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.file_names import MODEL
from exptilt.run_folder.samples_record import PairMargin, SideBySide
from exptilt.settings.evaluated_recipe import is_reward_model, is_run

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """What `xt.evaluate` measured; printed, it is a table of estimates with their intervals."""

    evaluation: Evaluation
    """Every estimate, as evaluation.json has it: `accuracy`, `kl` (nats a completion), `lengths` (tokens), ..."""
    data: DataReport
    """The account of the rows."""
    side_by_side: tuple[SideBySide, ...] = ()
    pair_margins: tuple[PairMargin, ...] = ()

    @cached_property
    def samples(self) -> pandas.DataFrame:
        """A row for each prompt that was sampled: `prompt`, `policy`, `reference` (texts)."""
        return _table(self.side_by_side)

    @cached_property
    def margins(self) -> pandas.DataFrame:
        """A row for each pair: `log_ratio` and `likelihood` (chosen less rejected, nats), or `score` of a reward model."""
        return _table(self.pair_margins)

    def __repr__(self) -> str:
        from rich.console import Console

        from exptilt.reports.tables.evaluation_table import evaluation_table

        text = io.StringIO()
        Console(file=text, width=100).print(evaluation_table(self.evaluation))
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"


@public_call
def evaluate(
    model: Any,
    rows: Any,
    *,
    tokenizer: Any = None,
    reference: Any = None,
    loss: Any = None,
    seed: int | None = None,
    data: Any = None,
    batch: Any = None,
    evaluate: Any = None,
    quiet: bool = False,
) -> EvaluationResult:
    """Measure a model on pairs: accuracy, log-ratios and KL against a reference, lengths, samples side by side.

    Nothing is written; `exptilt evaluate` measures the same into a folder. The model is used as it is and not changed.

    Args:
        model: a transformers or peft model (such as `run.model`), a run, a folder or a hub id; also a reward model.
        rows: pairs in any form that `xt.train` takes.
        tokenizer: of a model object that was not loaded from a folder or hub id.
        reference: the model to measure against, in the same forms; by default an adapter is measured against its base, any
            other model without one.
        loss: the objective whose `beta` makes implicit rewards of log-ratios; by default they are log-ratios.
        seed: of the samples.
        data: section `data`: what happens to faulty rows, rendering, lengths.
        batch: section `batch`; `tokens` bounds one forward pass.
        evaluate: section `evaluate`: how many prompts are sampled, how long, at which level intervals are.
        quiet: show no messages and no bars.

    Returns:
        The estimates, samples and margins.

    Raises:
        ExptiltError: the model, the rows or the reference cannot be used; the message says why, in one line.

    Example:
        >>> import tempfile, exptilt as xt
        >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
        >>> small = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = xt.train(small, rows, output=f"{folder}/run", quiet=True, report=False)
        ...     result = xt.evaluate(run.model, rows, evaluate={"num_prompts": 0}, quiet=True)
        >>> result.evaluation.num_pairs, len(result.margins)
        (8, 8)
    """
    from exptilt.processes.surroundings import left_as_found
    from exptilt.runs.model_evaluation import measure_model

    keywords = RecipeKeywords("xt.evaluate")
    with ExitStack() as lends:
        model = model_path(model)
        keywords.model(model, tokenizer, lends)
        keywords.reference(_base_of(model) if reference is None else model_path(reference), lends)
        keywords.loss(loss if loss is not None else "bradley_terry" if gives_scores(model) else None)
        keywords.put("seed", seed)
        for name, section in (("data", data), ("batch", batch), ("evaluate", evaluate)):
            keywords.section(name, section)
        keywords.rows(rows)
        keywords.put("output", "nothing-is-written")
        recipe = keywords.build()
        if not (recipe.loss.kind.is_paired or recipe.loss.kind.scores):
            raise ConfigError(
                f"xt.evaluate: loss: {recipe.loss.name} is not trained on pairs, and only pairs are measured"
            )
        if quiet:
            lends.enter_context(no_bars())
        lends.enter_context(holding(*keywords.held))
        lends.enter_context(left_as_found())
        console = messages(quiet=quiet)
        measured = measure_model(recipe, has_beta=loss is not None, console=console, notes=console)
    found = measured.measures
    return EvaluationResult(found.evaluation, measured.rows.report, found.samples, found.margins)


def model_path(model: Any) -> Any:
    """The model of a run, as a folder; anything else as it is."""
    if isinstance(model, RunResult):
        return str(model.folder / MODEL)
    if isinstance(model, str | Path) and is_run(str(model)):
        return str(Path(model) / MODEL)
    return model


def _base_of(model: Any) -> str | None:
    """The folder or hub id of the base that a peft model names; None of any other model."""
    settings = getattr(model, "peft_config", {}).get("default")
    return getattr(settings, "base_model_name_or_path", None) or None


def gives_scores(model: Any) -> bool:
    """Whether a model is a reward model, by its files or its head."""
    if isinstance(model, str | Path):
        return is_reward_model(str(model))
    if not hasattr(model, "parameters"):
        return False
    from exptilt.policies.engine.forward import causal_lm
    from exptilt.policies.engine.pooled import has_score

    return bool(has_score(causal_lm(model)))


def _table(records: Any) -> Any:
    import pandas

    return pandas.DataFrame([record.given() for record in records])
