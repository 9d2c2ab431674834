"""`xt.score`: log-probabilities, or a reward model's scores, of every completion of some rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from exptilt.calls.evaluate_call import gives_scores, model_path
from exptilt.calls.public_call import public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.errors import ConfigError, DataError
from exptilt.in_memory import holding
from exptilt.progress import no_bars
from exptilt.settings.data_settings import DEFAULT_TOKENS, DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.model_settings import ModelConfig, ReferenceConfig

if TYPE_CHECKING:
    import pandas

    from exptilt.data.groups import Group


@config
class _Scored:
    """What is scored, by what."""

    model: ModelConfig
    data: DataConfig
    reference: ReferenceConfig = ReferenceConfig()


@public_call
def score(
    model: Any,
    tokenizer: Any = None,
    rows: Any = None,
    *,
    reference: Any = None,
    data: Any = None,
    max_tokens: int = DEFAULT_TOKENS,
    quiet: bool = False,
) -> pandas.DataFrame:
    """Score completions as training scores them: rendered by the chat template, user turns uncounted, rows packed.

    Args:
        model: a transformers or peft model, a reward model, a run, a folder or a hub id; it is not changed.
        tokenizer: of the model; None takes that of the folder or hub id the model is from.
        rows: pairs, rankings, rated completions or demonstrations, in any form that `xt.train` takes.
        reference: another model, in the same forms as `model`, to compare with.
        data: section `data`: what happens to faulty rows, rendering, lengths.
        max_tokens: tokens of one forward pass; no score depends on it.
        quiet: show no bars.

    Returns:
        A row for each completion, in order: `row` (its id), `side` (`chosen`, `rejected`, or a number), `tokens` (counted
        ones), `logp` (their sum, nats; `score` of a reward model) and, with a reference, `reference_logp` and `log_ratio`.

    Raises:
        ExptiltError: the model or the rows cannot be used; the message says why, in one line.

    Example:
        >>> import tempfile, exptilt as xt
        >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
        >>> small = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = xt.train(small, rows, output=f"{folder}/run", quiet=True, report=False)
        ...     scored = xt.score(run.model, run.tokenizer, rows[:2], reference=run.model)
        >>> scored[["row", "side"]].values.tolist(), bool(scored.log_ratio.abs().max() < 1e-6)
        ([['rows:1', 'chosen'], ['rows:1', 'rejected'], ['rows:2', 'chosen'], ['rows:2', 'rejected']], True)
    """
    if rows is None:
        raise ConfigError("xt.score: no rows: xt.score(model, tokenizer, rows); tokenizer=None takes the model's own")
    if max_tokens < 1:
        raise ConfigError(f"xt.score: max_tokens must be at least 1, got {max_tokens}")
    from exptilt.processes.surroundings import left_as_found

    keywords = RecipeKeywords("xt.score")
    with ExitStack() as stack:
        model, reference = model_path(model), model_path(reference)
        is_reward_model = gives_scores(model)
        if is_reward_model and reference is not None:
            raise ConfigError("xt.score: reference: a reward model has none; leave it out")
        keywords.model(model, tokenizer, stack)
        keywords.reference(reference, stack)
        keywords.section("data", data)
        keywords.rows(rows)
        wanted: _Scored = keywords.build(_Scored)
        stack.enter_context(holding(*keywords.held))
        stack.enter_context(left_as_found())
        if quiet:
            stack.enter_context(no_bars())
        return _table(wanted, is_reward_model, max_tokens)


def _table(wanted: _Scored, is_reward_model: bool, max_tokens: int) -> pandas.DataFrame:
    import pandas

    from exptilt.data.kind_of_rows import kind_of_rows
    from exptilt.data.prepared import prepare
    from exptilt.policies.device import model_on_device
    from exptilt.policies.engine.forward import context_length
    from exptilt.policies.models import load_model, load_tokenizer
    from exptilt.policies.reference.other import load_reference
    from exptilt.policies.reward_scorer import scores_of_groups
    from exptilt.runs.run_models import TRAINED

    tokenizer, kind = load_tokenizer(wanted.model), kind_of_rows(wanted.data)
    if not kind.is_trained:
        raise DataError(f"{wanted.data.train}: these are prompts alone, and there is no completion to score")
    head = TRAINED["rewards" if is_reward_model else "logps"]
    model = model_on_device(load_model(wanted.model, tokenizer, head=head))
    groups = prepare(wanted.data, tokenizer, kind, context_length(model)).train
    frame = pandas.DataFrame(
        {
            "row": [group.id for group in groups for _ in group.completions],
            "side": [side for group in groups for side in kind.sides or range(len(group.completions))],
            "tokens": [completion.length for group in groups for completion in group.completions],
        }
    )
    if is_reward_model:
        scores = scores_of_groups(model, groups, max_tokens=max_tokens, progress="score")
        frame["score"] = [float(one) for of_group in scores for one in of_group]
        return frame
    frame["logp"] = _sums(model, groups, max_tokens)
    if wanted.reference.model is not None:
        other = model_on_device(load_reference(wanted.model, wanted.reference.model, tokenizer))
        frame["reference_logp"] = _sums(other, groups, max_tokens)
        frame["log_ratio"] = frame["logp"] - frame["reference_logp"]
    return frame


def _sums(model: Any, groups: Sequence[Group], max_tokens: int) -> list[float]:
    from exptilt.policies.scoring import score_all

    scored = score_all(model, groups, max_tokens=max_tokens, progress="score")
    return [float(one) for logps in scored for one in logps.sum().double()]
