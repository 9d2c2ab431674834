"""`xt.train`: a run from Python objects, files or a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from exptilt.calls.default_folder import UNNAMED, default_folder
from exptilt.calls.public_call import messages, objects_in_words, public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.calls.run_result import RunResult
from exptilt.errors import ConfigError
from exptilt.in_memory import InMemory, holding
from exptilt.progress import no_bars
from exptilt.settings.recipe import Recipe


@public_call
def train(
    model: Any = None,
    rows: Any = None,
    *,
    test: Any = None,
    tokenizer: Any = None,
    loss: Any = None,
    adapter: Any = None,
    reference: Any = None,
    output: str | Path | None = None,
    seed: int | None = None,
    data: Any = None,
    batch: Any = None,
    optim: Any = None,
    train: Any = None,
    sft: Any = None,
    evaluate: Any = None,
    parallel: Any = None,
    rounds: Any = None,
    rollout: Any = None,
    critic: Any = None,
    recipe: str | Path | Recipe | None = None,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
    report: bool = True,
) -> RunResult:
    """Train a model on preferences, measure it, and write a run folder; the model and the rows given are not changed.

    Every keyword is the section of a recipe with that name (`exptilt config` lists their keys) and takes a mapping or
    the settings class: `optim={"learning_rate": 1e-6}` or `optim=xt.OptimConfig(learning_rate=1e-6)`.

    The same call again goes on with a run that was stopped, and gives back one that is finished; a call with another
    argument is another run, in another folder. A run from objects is known by digests of them and goes on by the same
    call only.

    Args:
        model: a transformers or peft model, a folder, a hub id, an `xt.SmallModel` to train from scratch, or an
            `xt.ModelConfig` for everything else. Objects are copied. The adapter of a peft model is trained further.
        rows: a list of mappings, a `datasets.Dataset`, a table of pandas, polars or pyarrow; or a path or hub id. Any
            format that `exptilt doctor` knows: `prompt, chosen, rejected`, `prompt, completion, label`, ...
        test: held-out rows, in the same forms; or hold some out with `data={"test_fraction": 0.1}`.
        tokenizer: of the model; needed beside a model object, an object itself or a folder or hub id.
        loss: an object such as `xt.DPO(beta=0.1)`, a name such as "ipo", a mapping, or a loss of your own.
        adapter: `xt.LoRA(rank=16)`; by default all weights are trained.
        reference: another model than the one training starts from: an object, a folder, a hub id, or the section.
        output: the run folder; by default `runs/<loss>-<digest>`, of the recipe and the content it names, which no other run has.
        seed: of initial weights, batches and samples.
        data: section `data`: what happens to faulty rows, rendering, lengths.
        batch: section `batch`.
        optim: section `optim`.
        train: section `train`: epochs, checkpoints, evaluations.
        sft: section `sft`: a supervised phase first.
        evaluate: section `evaluate`: what is measured at the end.
        parallel: section `parallel`.
        rounds: section `rounds`, or a number of rounds.
        rollout: section `rollout`: train on completions that the policy draws, such as `{"reward": {"kind": "length"}}`.
        critic: section `critic`: the model of values beside the policy, for losses such as `xt.PPO()`.
        recipe: a YAML file or an `xt.Recipe`, which the other arguments are laid over.
        callbacks: objects with the hooks of `xt.Callback`, called around the steps.
        quiet: show no messages and no bars.
        report: whether report.html is written at the end.

    Returns:
        The run: its metrics, evaluation, samples, model and report.

    Raises:
        ExptiltError: an argument, the rows, the model or the folder cannot be used; the message says which, in one line.

    Example:
        >>> import tempfile, exptilt as xt
        >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
        >>> small = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = xt.train(small, rows, loss=xt.DPO(beta=0.1), output=f"{folder}/run", quiet=True, report=False)
        ...     run.status, len(run.metrics), run.evaluation
        ('done', 1, None)
    """
    keywords = RecipeKeywords("xt.train", recipe)
    keywords.put("seed", seed)
    sections = {"data": data, "batch": batch, "optim": optim, "train": train, "sft": sft, "evaluate": evaluate}
    for name, section in (
        sections | {"parallel": parallel, "rounds": rounds, "rollout": rollout, "critic": critic}
    ).items():
        keywords.section(name, section)
    keywords.loss(loss)
    keywords.adapter(adapter)
    keywords.model(model, tokenizer)
    keywords.reference(reference)
    keywords.rows(rows)
    keywords.rows(test, "data.test", "test rows")
    _require_given(keywords)
    _require_callbacks(callbacks)
    keywords.put("output", UNNAMED if output is None and not keywords.has("output") else output and str(output))
    built = keywords.build()
    if built.output == UNNAMED:
        built = replace(built, output=default_folder(built, callbacks))
    return _started(built, keywords.held, callbacks, quiet=quiet, report=report)


def _started(
    recipe: Recipe, held: Sequence[InMemory], callbacks: Sequence[Any], *, quiet: bool, report: bool
) -> RunResult:
    """Run a recipe, and give the run a way to go on."""
    from exptilt.runs.rounds.run_rounds import run_rounds
    from exptilt.runs.run_recipe import run_recipe

    if recipe.rounds is not None and callbacks:
        raise ConfigError("xt.train: callbacks: rounds are several runs; name them in train={'callbacks': [...]}")
    console = messages(quiet=quiet)
    with objects_in_words(), holding(*held), no_bars() if quiet else nullcontext():
        if recipe.rounds is not None:
            outcome = run_rounds(recipe, console, page=report)
        else:
            outcome = run_recipe(recipe, console, page=report, callbacks=tuple(callbacks))

    def again() -> RunResult:
        return _started(recipe, held, callbacks, quiet=quiet, report=report)

    return RunResult(outcome.folder.path, again)


def _require_given(keywords: RecipeKeywords) -> None:
    if keywords.has("segmenter"):
        raise ConfigError("xt.train: a recipe with segmenter trains on masks; run it with `exptilt train`")
    if not keywords.has("model.path") and not keywords.has("model.config"):
        raise ConfigError("xt.train: no model: give a model object, a folder or a hub id first, or a recipe with one")
    if not keywords.has("data.train") and not keywords.has("rounds"):
        raise ConfigError("xt.train: no rows: give a list of mappings, a data set, a path or a hub id after the model")


def _require_callbacks(callbacks: Any) -> None:
    hooks: Callable[[Any], bool] = lambda each: not isinstance(each, type) and hasattr(each, "after_step")  # noqa: E731
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise ConfigError(f"xt.train: callbacks: give a list of objects, got {callbacks!r}")
    wrong = next((each for each in callbacks if not hooks(each)), None)
    if wrong is not None:
        raise ConfigError(f"xt.train: callbacks: {wrong!r} is no callback; give an object of a subclass of xt.Callback")
