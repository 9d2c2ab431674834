"""The model card of a run: recipe, data counts, evaluation with intervals, exact versions, warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exptilt.disk import write_whole
from exptilt.kinds import kind_of
from exptilt.run_folder.data_record import DataReport
from exptilt.run_folder.estimate_record import Estimate
from exptilt.run_folder.evaluation_record import Evaluation
from exptilt.run_folder.file_names import CONFIG, DATA, EVALUATION
from exptilt.run_folder.folder import RunFolder
from exptilt.run_folder.run_record import Caution
from exptilt.settings.objectives import entries
from exptilt.settings.yaml_source import read_yaml, to_yaml

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def write_card(run: RunFolder, target: Path | None = None, *, repository: str | None = None) -> Path:
    """Write README.md into a model folder, from the files of the run.

    Args:
        run: a finished run.
        target: the model folder, the run's own by default; another one is taken for the merged model.
        repository: the hub id it goes to, for the example of use.

    Returns:
        The file.
    """
    from huggingface_hub import ModelCard

    folder = target or run.model
    recipe = read_yaml(run.path / CONFIG).values
    info, data = run.run, run.record(DataReport, DATA) or DataReport()
    measured = list(_measures_with_intervals(run.record(Evaluation, EVALUATION) or Evaluation()))
    merged = target is not None and target.resolve() != run.model.resolve()
    adapter = not merged and (folder / "adapter_config.json").is_file()
    base = _hub_id(recipe["model"]["path"])
    name = (repository or run.path.resolve().name).rpartition("/")[2]
    card = ModelCard.from_template(
        _card_data(recipe, name, base, measured, adapter),
        template_path=str(_TEMPLATE),
        name=name,
        summary=_summary(recipe, base),
        merged=merged and (run.model / "adapter_config.json").is_file(),
        adapter=adapter,
        scores=_scores(recipe),
        base=base,
        place=repository or folder.name,
        data=list(_counts(data)),
        sources=_sources(data),
        measures=[{"name": words, **_shown(estimate)} for words, _, estimate in measured],
        prompts=max((estimate.n or 0 for _, _, estimate in measured), default=0),
        level=f"{100 * (measured[0][2].level or 0.95):g} %" if measured else "",
        warnings=[_warning(caution) for caution in info.warnings],
        steps=info.steps or 0,
        kept=info.kept,
        time="" if info.seconds is None else f" in {info.seconds / 60:.1f} minutes",
        hardware=info.hardware or "unknown hardware",
        versions=", ".join(f"{package} {number}" for package, number in info.versions.items()),
        recipe=to_yaml(_shareable({**recipe, "output": "run"})).strip(),
    )
    path = folder / "README.md"
    write_whole(path, str(card))
    return path


def _card_data(recipe: Mapping[str, Any], name: str, base: str | None, measured: list[Any], adapter: bool) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_task(recipe),
            dataset_type=_hub_id(_paths_of(recipe["data"])[0]) or "preferences",
            dataset_name="held-out preferences",
            metric_type=kind,
            metric_name=words,
            metric_value=round(estimate.value or 0.0, 6),
            metric_args={bound: getattr(estimate, bound) for bound in ("low", "high", "level", "n")},
        )
        for words, kind, estimate in measured
    ]
    sources = _paths_of(recipe["data"])
    return ModelCardData(
        base_model=base,
        datasets=[hub_id for origin in sources if (hub_id := _hub_id(origin))] or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=_task(recipe),
        tags=["exptilt", "reward-model" if _scores(recipe) else "preference-optimization", recipe["loss"]["name"]],
        model_name=name,
        eval_results=results or None,
    )


def _summary(recipe: Mapping[str, Any], base: str | None) -> str:
    objective, beta = recipe["loss"]["name"], recipe["loss"].get("beta")
    strength = f" (beta {beta:g})" if beta is not None else ""
    start = f"from {base}" if base else "from a local model" if recipe["model"]["path"] else "from random weights"
    first = ", after a supervised phase on the chosen completions" if recipe["sft"] is not None else ""
    made = "A reward model, trained" if _scores(recipe) else "Trained"
    return f"{made} {start} with the objective `{objective}`{strength}{first}, by exptilt."


def _scores(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe trains a reward model."""
    return any(entry.name == recipe["loss"].get("name") and kind_of(entry.kind).scores for entry in entries())


def _task(recipe: Mapping[str, Any]) -> str:
    return "text-classification" if _scores(recipe) else "text-generation"


def _measures_with_intervals(evaluation: Evaluation) -> Iterator[tuple[str, str, Estimate]]:
    """The measures of evaluation.json that a card shows: words, kind of metric, estimate."""
    with_reference, without = (evaluation.accuracy.get(f"{name}_reference", {}) for name in ("with", "without"))
    measures = (
        ("accuracy of implicit rewards", "accuracy", with_reference.get("sum")),
        ("accuracy of likelihoods, without the reference", "accuracy", without.get("sum")),
        ("accuracy of scores", "accuracy", evaluation.accuracy.get("reward_model", {}).get("score")),
        ("log loss of a pair, nats", "log_loss", evaluation.log_loss),
        ("the longer completion wins (baseline)", "accuracy", evaluation.longest_wins),
        ("KL to the reference, nats a completion", "kl", evaluation.kl),
        ("length of samples, tokens", "length", evaluation.lengths.get("policy_samples")),
    )
    for words, kind, estimate in measures:
        if estimate is not None and estimate.value is not None:
            yield words, kind, estimate


def _shown(estimate: Estimate) -> dict[str, str]:
    interval = "unknown" if estimate.interval is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"
    return {"value": f"{estimate.value:.3f}", "interval": interval}


def _counts(data: DataReport) -> Iterator[dict[str, Any]]:
    names = {"train": "training", "test": "held out"}
    for split, account in data.splits.items():
        left_out = account.rows_left_out | account.examples_left_out
        words = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
        yield {"name": names[split], "rows": account.rows, "kept": account.kept, "left_out": words or "none"}


def _sources(data: DataReport) -> str:
    shown = [
        f"`{_shareable(source.path)}`" + (f" (licence: {source.licence})" if source.licence else "")
        for source in data.train.sources
    ]
    return "Sources: " + ", ".join(shown) + "." if shown else ""


def _warning(caution: Caution) -> str:
    phase = f" of the {caution.phase} phase" if caution.phase else ""
    step = "" if caution.step is None else f"Step {caution.step}{phase}: "
    step = f"**Alarm.** {step}" if caution.alarm else step
    return f"{step}{caution.message}{'. Advice: ' + caution.advice if caution.advice else ''}"


def _paths_of(data: Mapping[str, Any]) -> list[str]:
    """Paths and hub ids of all sources to train on; `train` is one path, or a list of sources."""
    train = data["train"]
    listed = [train] if isinstance(train, str) else [source["path"] for source in train]
    return [*listed, *(source["path"] for source in data["mixture"])]


def _hub_id(path: str | None) -> str | None:
    """The path if it is a hub id, None if it is a path on this machine."""
    is_id = path is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
    is_file = path is not None and (Path(path).expanduser().exists() or path.startswith((".", "/", "~")))
    known = path is not None and Path(path).suffix in (".jsonl", ".json", ".csv", ".parquet", ".gz")
    return path if is_id and not is_file and not known else None


def _shareable(value: Any) -> Any:
    """Remove folders of this machine: only the last part of a local path is shown."""
    if isinstance(value, Mapping):
        return {key: _shareable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "..", "./")):
        return Path(value).name
    return value
