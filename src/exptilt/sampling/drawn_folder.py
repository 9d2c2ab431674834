"""Samples into a folder: what is not there yet is drawn, from a model in this process or from a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from exptilt.errors import ConfigError, ExptiltError, Stopped
from exptilt.progress import progress_bar
from exptilt.sampling.prompts_to_sample import AskedPrompt
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleFolder, SampleRow
from exptilt.wording import counted


def draw_into(folder: Path, request: SampleRequest, asked: Sequence[AskedPrompt], console: Console) -> int:
    """Draw what a request asks for and is not in the folder yet.

    Args:
        folder: of the samples; claimed by the caller.
        request: how many completions, by what, and how.
        asked: the prompts.
        console: where a person is told that samples are there already.

    Returns:
        The number of samples that the request asks for; all of them are in the folder.

    Raises:
        ExptiltError: model or server cannot be used, or samples are missing; those that were drawn stay.
        Stopped: somebody asked to stop.
    """
    with _source(request, asked) as (identity, rows):
        kept = SampleFolder(folder, request.identified(identity))
        wanted = {(one.id, index) for one in asked for index in range(request.num_samples)}
        total, before = len(wanted), len(wanted & kept.done)
        if before:
            console.print(f"going on: {before:,} of {counted(total, 'sample')} are there", highlight=False)
        with progress_bar(total, doing="sample", unit="sample", begin=before, delay=1) as bar:
            try:
                for part in rows(kept.done):
                    kept.add(part)
                    bar.update(len(wanted & kept.done) - bar.n)
            except KeyboardInterrupt:
                raise Stopped(f"stopped; {len(kept.done):,} samples stay, and the same command goes on") from None
    missing = total - len(wanted & kept.done)
    if missing:
        raise ExptiltError(
            f"{folder}: {counted(missing, 'sample')} of {total:,} are missing; run the same command again"
        )
    return total


@contextmanager
def _source(request: SampleRequest, asked: Sequence[AskedPrompt]) -> Iterator[tuple[str, Any]]:
    """What draws, and its identity: a function from completions that are done to parts of rows."""
    if request.server is not None:
        from exptilt.sampling.server_sampler import server_identity, server_rows

        yield server_identity(request.server), lambda done: server_rows(asked, request, done)
        return
    if request.model is None:
        raise ConfigError("model: name one to draw from, or a server")

    from exptilt.policies.device import model_on_device
    from exptilt.policies.fingerprint import fingerprint
    from exptilt.policies.models import load_model, load_tokenizer
    from exptilt.processes.surroundings import left_as_found
    from exptilt.sampling.local_sampler import local_rows

    with left_as_found():
        tokenizer = load_tokenizer(request.model)
        model = model_on_device(load_model(request.model, tokenizer, seed=request.seed))

        def rows(done: set[tuple[str, int]]) -> Iterator[list[SampleRow]]:
            return local_rows(model, tokenizer, asked, request, done)

        yield fingerprint(model), rows
