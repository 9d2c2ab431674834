"""`xt.sample`: completions of prompts, from a model or a server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from exptilt.calls.evaluate_call import model_path
from exptilt.calls.public_call import messages, public_call
from exptilt.calls.recipe_keywords import RecipeKeywords
from exptilt.in_memory import holding
from exptilt.progress import no_bars
from exptilt.sampling.sample_request import SampleRequest

_NOWHERE = "nothing-is-written"


@public_call
def sample(
    model: Any,
    prompts: Any,
    *,
    tokenizer: Any = None,
    server: Any = None,
    num_samples: int | None = None,
    law: Any = None,
    seed: int | None = None,
    batch_size: int | None = None,
    data: Any = None,
    output: str | Path | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Draw completions of prompts, from the model's own distribution or another law; equal calls draw equal samples.

    Args:
        model: a transformers or peft model, a run, a folder or a hub id; None with `server`. It is not changed.
        prompts: a text, texts, or rows with prompts in any form that `xt.train` takes; each prompt is asked once.
        tokenizer: of a model object that was not loaded from a folder or hub id.
        server: an OpenAI-compatible server instead: `{"url": "http://localhost:8000/v1", "model": "name"}`.
        num_samples: completions of each prompt; by default 4.
        law: an `xt.SamplingLaw` or its settings: `{"temperature": 0.7, "max_new_tokens": 64}`; by default the model's own.
        seed: one stream of random numbers for each seed, prompt and completion.
        batch_size: completions drawn at a time; it changes nothing beyond rounding.
        data: section `data`: how prompts are rendered.
        output: a folder that the samples are appended to; the same call goes on in it. By default nothing is written.
        quiet: show no messages and no bars.

    Returns:
        A mapping for each completion, in order of prompt and number: `prompt`, `completion`, `sample_index`, `ended` (False
        where it was cut), `prompt_ids`, `completion_ids`, `logps` (nats, of each id under the model's own distribution).
        `xt.pair` takes them.

    Raises:
        ExptiltError: the model, the prompts or the server cannot be used; the message says why, in one line.

    Example:
        >>> import tempfile, exptilt as xt
        >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
        >>> small = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = xt.train(small, rows, output=f"{folder}/run", quiet=True, report=False)
        ...     drawn = xt.sample(run.model, ["2 + 2 ="], num_samples=2, law={"max_new_tokens": 3}, quiet=True)
        >>> [(one["prompt"], one["sample_index"], len(one["completion_ids"]) <= 3) for one in drawn]
        [('2 + 2 =', 0, True), ('2 + 2 =', 1, True)]
    """
    keywords = RecipeKeywords("xt.sample")
    with ExitStack() as stack:
        keywords.model(model_path(model), tokenizer, stack)
        keywords.section("server", server)
        for name, value in (("num_samples", num_samples), ("seed", seed), ("batch_size", batch_size)):
            keywords.put(name, value)
        keywords.section("law", law)
        keywords.section("data", data)
        keywords.rows(_as_rows(prompts), what="prompts")
        keywords.put("output", _NOWHERE if output is None else str(output))
        request: SampleRequest = keywords.build(SampleRequest)
        stack.enter_context(holding(*keywords.held))
        if quiet:
            stack.enter_context(no_bars())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if output is None else request.output)
        return _drawn(request, folder.expanduser(), quiet=quiet, claims=output is not None)


def _as_rows(prompts: Any) -> Any:
    """Texts as rows; a single text is a path if there is such a file, else a prompt."""
    if isinstance(prompts, str):
        return prompts if Path(prompts).suffix and Path(prompts).exists() else [{"prompt": prompts}]
    if isinstance(prompts, list | tuple) and prompts and all(isinstance(prompt, str) for prompt in prompts):
        return [{"prompt": prompt} for prompt in prompts]
    return prompts


def _drawn(request: SampleRequest, folder: Path, *, quiet: bool, claims: bool) -> list[dict[str, Any]]:
    from exptilt.run_folder.lock import claimed
    from exptilt.runs.run_inputs import data_inputs
    from exptilt.sampling.drawn_folder import draw_into
    from exptilt.sampling.prompts_to_sample import prompts_of
    from exptilt.sampling.sample_rows import read_samples

    console = messages(quiet=quiet)
    asked, _ = prompts_of(request.data)
    with ExitStack() as stack:
        if claims:
            stack.enter_context(claimed(folder, "samples", data_inputs(request.data)))
        draw_into(folder, request, asked, console)
    order = {one.id: number for number, one in enumerate(asked)}
    wanted = [row for row in read_samples(folder) if row.prompt_id in order and row.sample_index < request.num_samples]
    return [_plain(row) for row in sorted(wanted, key=lambda row: (order[row.prompt_id], row.sample_index))]


def _plain(row: Any) -> dict[str, Any]:
    plain: Mapping[str, Any] = json.loads(row.line())
    return dict(plain)
