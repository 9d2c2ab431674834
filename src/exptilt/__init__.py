"""exptilt: tilt a model toward what people prefer, and show how far it is from the best that could be reached.

    import exptilt as xt

    run = xt.train("Qwen/Qwen2.5-0.5B", rows, loss=xt.DPO(beta=0.1), adapter=xt.LoRA(rank=16))

Every name is imported when it is first used, so `import exptilt` costs nothing and torch is loaded by what needs it. `dir(exptilt)` lists
the names; docs/python.md explains them.
"""

__version__ = "0.1.0"

_CALLS = {
    "train": "train_call",
    "evaluate": "evaluate_call",
    "score": "score_call",
    "sample": "sample_call",
    "load_rows": "load_rows_call",
    "doctor": "doctor_call",
    "judge": "judge_call",
    "pair": "pair_call",
    "load_run": "load_run_call",
    "RunResult": "run_result",
}
"""The module in `exptilt.calls` of each function, and of what it returns."""
_CLASSES = {
    "Recipe": "settings.recipe",
    "SFTPhase": "settings.recipe",
    "ModelConfig": "settings.model_settings",
    "SmallModel": "settings.model_settings",
    "LoRA": "settings.model_settings:AdapterConfig",
    "ReferenceConfig": "settings.model_settings",
    "DataConfig": "settings.data_settings",
    "SourceConfig": "settings.source_settings",
    "BatchConfig": "settings.data_settings",
    "OptimConfig": "settings.training_settings",
    "TrainConfig": "settings.training_settings",
    "ParallelConfig": "settings.training_settings",
    "EvaluateConfig": "settings.evaluation_settings",
    "RoundsConfig": "settings.rounds_settings",
    "RolloutConfig": "settings.rollout_settings",
    "CriticConfig": "settings.critic_settings",
    "SamplingLaw": "sampling.sampling_law",
    "Callback": "training.callbacks.callback",
    "ExptiltError": "errors",
}
"""Where each class stands; behind a colon, its name there. Losses stand in `exptilt.losses`."""


def __getattr__(name: str) -> object:
    place = _place_of(name)
    if place is None:
        from exptilt.wording import nearest

        near = None if name.startswith("_") else nearest(name, __dir__())
        raise AttributeError(f"exptilt has no {name!r}{f'; did you mean exptilt.{near}?' if near else ''}")
    from importlib import import_module

    module, own_name = place
    value: object = getattr(import_module(f"exptilt.{module}"), own_name)
    globals()[name] = value
    return value


def _place_of(name: str) -> tuple[str, str] | None:
    """The module and the name there of a public name."""
    if name in _CALLS:
        return f"calls.{_CALLS[name]}", name
    if name in _CLASSES:
        module, _, own_name = _CLASSES[name].partition(":")
        return module, own_name or name
    return ("losses", name) if not name.startswith("_") and name in _losses() else None


def _losses() -> list[str]:
    from exptilt.settings.objectives import class_names

    return class_names()


def __dir__() -> list[str]:
    return sorted([*_CALLS, *_CLASSES, *_losses(), "__version__", "__doc__"])
