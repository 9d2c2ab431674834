"""`xt.load_run`: a run folder opened again."""

from __future__ import annotations

from pathlib import Path

from exptilt.calls.public_call import public_call
from exptilt.calls.run_result import RunResult
from exptilt.calls.train_call import train
from exptilt.errors import CheckpointError, ConfigError
from exptilt.in_memory import is_in_memory
from exptilt.run_folder.file_names import CONFIG


@public_call
def load_run(folder: str | Path) -> RunResult:
    """Open a run folder, of `xt.train` or `exptilt train`, finished or not.

    Args:
        folder: the run folder.

    Returns:
        The run.

    Raises:
        CheckpointError: it is no run folder.

    Example:
        >>> import exptilt as xt
        >>> xt.load_run("nowhere")
        Traceback (most recent call last):
        exptilt.errors.CheckpointError: nowhere: is no run folder (it has no config.yaml)
    """
    if not (Path(folder).expanduser() / CONFIG).is_file():
        raise CheckpointError(f"{folder}: is no run folder (it has no {CONFIG})")
    run = RunResult(Path(folder).expanduser(), lambda: _resumed(run))
    return run


def _resumed(run: RunResult) -> RunResult:
    """Go on with a run from its own recipe, which holds no objects."""
    from exptilt.runs.run_inputs import inputs_of

    recipe = run.recipe
    held = [key for key, path in inputs_of(recipe).items() if is_in_memory(path)]
    if held:
        raise ConfigError(
            f"{run.folder}: was made from objects ({', '.join(held)}), which no file holds; make the same call of xt.train "
            "again to go on"
        )
    return train(recipe=recipe, output=run.folder)
