"""`RunResult`: a run folder as an object, with its numbers, samples, model and report."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exptilt.errors import CheckpointError
from exptilt.run_folder.file_names import CONFIG, MODEL, REPORT_PAGE
from exptilt.run_folder.run_contents import RunContents, read_run

if TYPE_CHECKING:
    import pandas

    from exptilt.reports.tone import Conclusion
    from exptilt.run_folder.data_record import DataReport
    from exptilt.run_folder.evaluation_record import Evaluation
    from exptilt.settings.recipe import Recipe


class RunResult:
    """A run that `xt.train` made or `xt.load_run` opened; everything is read from its folder when it is asked for.

    In a notebook it shows the report's conclusion.

    Args:
        folder: the run folder.
        again: makes the call again that made the run.

    Example:
        >>> import tempfile, exptilt as xt
        >>> rows = [{"prompt": f"{n} + 1 =", "chosen": f" {n + 1}", "rejected": f" {n}"} for n in range(8)]
        >>> small = xt.SmallModel(hidden_size=8, num_layers=1, num_heads=2, max_positions=32, vocab_size=300)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = xt.train(small, rows, output=f"{folder}/run", quiet=True, report=False)
        ...     run.steps, round(float(run.metrics["train/loss"].iloc[0]), 4), run.model.num_parameters() > 0
        (1, 0.6931, True)
    """

    def __init__(self, folder: str | Path, again: Callable[[], RunResult]) -> None:
        self.folder = Path(folder)
        """The run folder."""
        self._again = again

    @property
    def contents(self) -> RunContents:
        """All files of the folder as typed records, as they are now."""
        return read_run(self.folder)

    @property
    def status(self) -> str:
        """`running`, `done`, `stopped` or `failed`."""
        info = self.contents.info
        return str(info.status) if info is not None and info.status else "unknown"

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        info = self.contents.info
        return (info.steps if info is not None else None) or 0

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        from exptilt.settings.load import load
        from exptilt.settings.recipe import Recipe as RecipeOfTexts

        return load(RecipeOfTexts, self.folder / CONFIG)

    @property
    def metrics(self) -> pandas.DataFrame:
        """metrics.jsonl: a row for each logged step, in order; columns `step`, `epoch`, `train/loss` (nats), `eval/...`.

        What was not measured at a step is NaN there.
        """
        import pandas

        lines = pandas.DataFrame(list(self.contents.metrics))
        return lines if lines.empty else lines.groupby("step", as_index=False).first()

    @property
    def evaluation(self) -> Evaluation | None:
        """evaluation.json: estimates with intervals on the held-out rows; None where nothing was measured."""
        return self.contents.evaluation

    @property
    def samples(self) -> pandas.DataFrame:
        """samples.jsonl: a row for each held-out prompt, columns `prompt`, `policy`, `reference` (texts)."""
        import pandas

        return pandas.DataFrame([sample.given() for sample in self.contents.samples])

    @property
    def data(self) -> DataReport | None:
        """data.json: what was read, kept and left out, and why."""
        return self.contents.data

    @property
    def warnings(self) -> tuple[str, ...]:
        """What guard rails warned of while the run trained."""
        info = self.contents.info
        return () if info is None else tuple(caution.message for caution in info.warnings)

    @property
    def conclusion(self) -> str:
        """Whether the run worked, in one or two sentences, as the report begins."""
        return self._conclusion.headline

    @cached_property
    def model(self) -> Any:
        """The trained model, loaded from the folder as `from_pretrained` would, on this process's device, for inference.

        Raises:
            CheckpointError: the run has no model yet.
        """
        from exptilt.policies.device import model_on_device
        from exptilt.policies.models import load_model
        from exptilt.processes.surroundings import left_as_found
        from exptilt.runs.run_models import TRAINED
        from exptilt.settings.model_settings import ModelConfig

        folder = str(self._model_folder())
        with left_as_found():
            model: Any = model_on_device(
                load_model(ModelConfig(path=folder), head=TRAINED[self.recipe.loss.kind.reads])
            )
        if hasattr(model, "peft_config"):  # whose own name would be its base's, which may have another tokenizer
            model.name_or_path = folder
        return model

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that was saved beside the model.

        Raises:
            CheckpointError: the run has no model yet.
        """
        from exptilt.policies.models import load_tokenizer
        from exptilt.settings.model_settings import ModelConfig

        return load_tokenizer(ModelConfig(path=str(self._model_folder())))

    def open_report(self, *, browser: bool = True) -> Path:
        """Write report.html as the folder is now, and open it.

        Args:
            browser: whether to open it.

        Returns:
            The page.
        """
        from exptilt.reports.page import write_report

        page = write_report([self.folder])
        if browser:
            webbrowser.open(page.resolve().as_uri())
        return page

    def resume(self) -> RunResult:
        """Go on with a run that was stopped; a finished one is given back.

        Raises:
            ConfigError: the run was made from objects, and they are not known here; make the same call of `xt.train` again.
        """
        return self._again()

    def _model_folder(self) -> Path:
        folder = self.folder / MODEL
        if not folder.is_dir():
            raise CheckpointError(f"{self.folder}: has no model yet; run.resume() goes on to the end")
        return folder

    @property
    def _conclusion(self) -> Conclusion:
        from exptilt.reports.report_inputs import read_inputs
        from exptilt.reports.words.conclusion import conclusion_of

        return conclusion_of(read_inputs([self.folder]))

    def __repr__(self) -> str:
        return f"RunResult({str(self.folder)!r}, {self.status}, {self.steps} steps): {self.conclusion}"

    def _repr_html_(self) -> str:
        """The conclusion card, for notebooks."""
        from exptilt.reports.conclusion_card import conclusion_card

        page = self.folder / REPORT_PAGE
        return conclusion_card(self.folder.name, self._conclusion, page if page.is_file() else None)
