"""`exptilt sample`: completions of prompts, from a model or a server, into a folder that can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from exptilt.errors import ConfigError, ExptiltError, Stopped
from exptilt.run_folder.file_names import MODEL
from exptilt.run_folder.lock import claimed
from exptilt.sampling.prompts_to_sample import AskedPrompt, prompts_of
from exptilt.sampling.sample_request import SampleRequest
from exptilt.sampling.sample_rows import SampleFolder, SampleRow
from exptilt.settings.evaluated_recipe import is_run
from exptilt.settings.load import load
from exptilt.wording import counted


def request_of(what: str, overrides: Sequence[str], output: Path | None = None) -> SampleRequest:
    """The request that a command line states.

    Args:
        what: a YAML file of settings, a model or adapter folder, a run, a hub id, or the address of a server.
        overrides: `key=value`.
        output: the folder, instead of `output=`.

    Raises:
        ConfigError: a setting is wrong or missing.
    """
    stated = [] if output is None else [f"output={json.dumps(str(output))}"]
    if Path(what).suffix in (".yaml", ".yml"):
        return load(SampleRequest, what, [*overrides, *stated])
    if what.startswith(("http://", "https://")):
        return load(SampleRequest, None, [f"server.url={json.dumps(what)}", *overrides, *stated])
    path = str(Path(what) / MODEL) if is_run(what) else what
    return load(SampleRequest, None, [f"model.path={json.dumps(path)}", *overrides, *stated])


def sample(request: SampleRequest) -> Path:
    """Draw what the request asks for and is not there yet.

    Returns:
        The folder.

    Raises:
        ExptiltError: prompts, model or server cannot be used; samples that were drawn stay.
        Stopped: somebody asked to stop.
    """
    console = Console(stderr=True)
    asked, left_out = prompts_of(request.data)
    folder = Path(request.output).expanduser()
    inputs = {"data.train": request.data.train}
    if request.model is not None and request.model.path is not None:
        inputs["model.path"] = request.model.path
    with claimed(folder, "samples", inputs) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        for reason, count in left_out.items():
            console.print(f"left out: {counted(count, 'row')} with {reason}", soft_wrap=True, highlight=False)
        return _sampled(request, asked, folder, console)


def _sampled(request: SampleRequest, asked: Sequence[AskedPrompt], folder: Path, console: Console) -> Path:
    with _source(request, asked) as (identity, rows):
        kept = SampleFolder(folder, request.identified(identity))
        wanted = {(one.id, index) for one in asked for index in range(request.num_samples)}
        total, before = len(wanted), len(wanted & kept.done)
        if before:
            console.print(f"going on: {before:,} of {counted(total, 'sample')} are there", highlight=False)
        with tqdm(total=total, initial=before, unit="sample", delay=1, disable=None) as bar:
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
    print(f"{counted(total, 'sample')} of {counted(len(asked), 'prompt')}: {folder}")
    return folder


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
