"""The model card of a run: recipe, data counts, evaluation with intervals, exact versions, warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exptilt.disk import write_whole
from exptilt.run_folder.folder import RunFolder
from exptilt.settings.declaration import as_dict
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe
from exptilt.settings.yaml_source import to_yaml

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_MEASURES = (
    ("accuracy of implicit rewards", "accuracy", ("accuracy", "with_reference", "sum")),
    ("accuracy of likelihoods, without the reference", "accuracy", ("accuracy", "without_reference", "sum")),
    ("the longer completion wins (baseline)", "accuracy", ("longest_wins",)),
    ("KL to the reference, nats a completion", "kl", ("kl",)),
    ("length of samples, tokens", "length", ("lengths", "policy_samples")),
)
"""What a card shows of evaluation.json: words, kind of metric, place."""


def write_card(run: RunFolder, target: Path | None = None, *, repository: str | None = None) -> Path:
    """Write README.md into a model folder, from what the run left behind.

    Args:
        run: a finished run.
        target: the model folder, the run's own by default; another one is taken for the merged model.
        repository: the hub id it goes to, for the example of use.

    Returns:
        The file.
    """
    from huggingface_hub import ModelCard

    folder = target or run.model
    recipe = load(Recipe, run.path / "config.yaml")
    info, measured = run.read("run.json"), list(_measures_with_intervals(run.read("evaluation.json")))
    merged = target is not None and target.resolve() != run.model.resolve()
    adapter = not merged and (folder / "adapter_config.json").is_file()
    base = _hub_id(recipe.model.path)
    name = (repository or run.path.resolve().name).rpartition("/")[2]
    card = ModelCard.from_template(
        _card_data(recipe, name, base, measured, adapter),
        template_path=str(_TEMPLATE),
        name=name,
        summary=_summary(recipe, base),
        merged=merged and (run.model / "adapter_config.json").is_file(),
        adapter=adapter,
        base=base,
        place=repository or folder.name,
        data=list(_counts(run.read("data.json"))),
        sources=_sources(run.read("data.json")),
        measures=[{"name": words, **_shown(estimate)} for words, _, estimate in measured],
        prompts=max((estimate["n"] for _, _, estimate in measured), default=0),
        level=f"{100 * measured[0][2]['level']:g} %" if measured else "",
        warnings=[_warning(one) for one in info.get("warnings", [])],
        steps=info.get("steps", 0),
        time=f" in {info['seconds'] / 60:.1f} minutes" if "seconds" in info else "",
        hardware=info.get("hardware", "unknown hardware"),
        versions=", ".join(f"{package} {number}" for package, number in info.get("versions", {}).items()),
        recipe=to_yaml(_shareable(as_dict(recipe) | {"output": "run"})).strip(),
    )
    path = folder / "README.md"
    write_whole(path, str(card))
    return path


def _card_data(recipe: Recipe, name: str, base: str | None, measured: list[Any], adapter: bool) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=_hub_id(recipe.data.train) or "preferences",
            dataset_name="held-out preferences",
            metric_type=kind,
            metric_name=words,
            metric_value=round(estimate["value"], 6),
            metric_args={bound: estimate[bound] for bound in ("low", "high", "level", "n")},
        )
        for words, kind, estimate in measured
    ]
    sources = [recipe.data.train, *(one.path for one in recipe.data.mixture)]
    return ModelCardData(
        base_model=base,
        datasets=[found for one in sources if (found := _hub_id(one))] or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["exptilt", "preference-optimization", recipe.loss.name],
        model_name=name,
        eval_results=results or None,
    )


def _summary(recipe: Recipe, base: str | None) -> str:
    beta = getattr(recipe.loss, "beta", None)
    strength = f" (beta {beta:g})" if beta is not None else ""
    start = f"from {base}" if base else "from a local model" if recipe.model.path else "from random weights"
    first = ", after a supervised phase on the chosen completions" if recipe.sft is not None else ""
    return f"Trained {start} with the objective `{recipe.loss.name}`{strength}{first}, by exptilt."


def _measures_with_intervals(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for words, kind, place in _MEASURES:
        found: Any = evaluation
        for key in place:
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        if isinstance(found, Mapping) and "value" in found:
            yield words, kind, dict(found)


def _shown(estimate: Mapping[str, Any]) -> dict[str, str]:
    low, high = estimate["low"], estimate["high"]
    interval = "unknown" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
    return {"value": f"{estimate['value']:.3f}", "interval": interval}


def _counts(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for split, name in (("train", "training"), ("test", "held out")):
        account = data.get(split)
        if not account:
            continue
        left_out = {**account.get("rows_left_out", {}), **account.get("examples_left_out", {})}
        words = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items())
        yield {"name": name, "rows": account["rows"], "kept": account["kept"], "left_out": words or "none"}


def _sources(data: Mapping[str, Any]) -> str:
    accounts = (data.get("train") or {}).get("sources", [])
    shown = [
        f"`{_shareable(one['path'])}`" + (f" (licence: {one['licence']})" if one.get("licence") else "")
        for one in accounts
    ]
    return "Sources: " + ", ".join(shown) + "." if shown else ""


def _warning(one: Mapping[str, Any]) -> str:
    place = f"Step {one['step']}: " if one.get("step") is not None else ""
    fix = one.get("advice") or one.get("fix") or ""
    return f"{place}{one.get('message', '')}{'. Advice: ' + fix if fix else ''}"


def _hub_id(path: str | None) -> str | None:
    """The path if it is a hub id, None if it is a place on this machine."""
    is_id = path is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
    is_file = path is not None and (Path(path).expanduser().exists() or path.startswith((".", "/", "~")))
    known = path is not None and Path(path).suffix in (".jsonl", ".json", ".csv", ".parquet", ".gz")
    return path if is_id and not is_file and not known else None


def _shareable(value: Any) -> Any:
    """Without folders of this machine: of a local path only its last part is shown."""
    if isinstance(value, Mapping):
        return {key: _shareable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shareable(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~", "..", "./")):
        return Path(value).name
    return value
