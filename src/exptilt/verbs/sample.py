"""`exptilt sample`: completions of prompts, from a model or a server, into a folder that can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from exptilt.run_folder.lock import claimed
from exptilt.runs.first_checks import check_model
from exptilt.runs.text_model import model_of_texts
from exptilt.sampling.drawn_folder import draw_into
from exptilt.sampling.prompts_to_sample import prompts_of
from exptilt.sampling.sample_request import SampleRequest
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
    path = model_of_texts(what)
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
    if request.model is not None:
        check_model(request.model)
    asked, left_out = prompts_of(request.data)
    folder = Path(request.output).expanduser()
    inputs = {f"data.{key}": path for key, path in request.data.paths.items()}
    if request.model is not None and request.model.path is not None:
        inputs["model.path"] = request.model.path
    with claimed(folder, "samples", inputs) as caution:
        if caution is not None:
            console.print(f"warning: {caution}", style="yellow", soft_wrap=True, highlight=False)
        for reason, count in left_out.items():
            console.print(f"left out: {counted(count, 'row')} with {reason}", soft_wrap=True, highlight=False)
        total = draw_into(folder, request, asked, console)
    print(f"{counted(total, 'sample')} of {counted(len(asked), 'prompt')}: {folder}")
    return folder
