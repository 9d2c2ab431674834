"""`exptilt chat`: talk to a model in the terminal, or compare it blindly with another on a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from exptilt.conversations.chat_request import ChatRequest
from exptilt.conversations.chat_terminal import ChatTerminal, line_editing
from exptilt.conversations.model_process import ModelProcess
from exptilt.errors import ConfigError
from exptilt.run_folder.file_names import CONFIG, MODEL
from exptilt.settings.evaluated_recipe import is_reward_model, is_run
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

_TURNS = ("template", "chat_template", "template_args", "fold_system")


def chat_request(what: str, overrides: Sequence[str], *, against: str | None = None, system: str = "") -> ChatRequest:
    """The request that a command line states.

    Args:
        what: a run folder, a model or adapter folder, or a hub id; of a run, its recipe says how turns become text.
        overrides: `key=value` of `ChatRequest`, such as `law.temperature=0.7`.
        against: another such, or "reference": what the run started from.
        system: the system prompt.

    Raises:
        ConfigError: a setting is wrong, "reference" is not that of a run, or it is a reward model.
    """
    recipe = load(Recipe, Path(what) / CONFIG) if is_run(what) else None
    stated = [f"model.path={json.dumps(_model_of(what))}", f"system={json.dumps(system)}"]
    if recipe is not None:
        stated += [f"turns.{name}={json.dumps(getattr(recipe.data, name))}" for name in _TURNS]
        stated.append(f"model.trust_remote_code={json.dumps(recipe.model.trust_remote_code)}")
    if against is not None:
        other = _reference_of(what, recipe) if against == "reference" else _model_of(against)
        stated.append(f"against.path={json.dumps(other)}")
    return load(ChatRequest, None, [*stated, *overrides])


def chat(request: ChatRequest) -> None:
    """Talk in the terminal until the lines end.

    Raises:
        ModelError: the model cannot be loaded, or its process ends while nobody types.
    """
    interactive = sys.stdin.isatty()
    with ModelProcess(request) as models:
        if models.without_template:
            print(
                "note: the tokenizer has no chat template, so turns are written Human: and Assistant:; name one with "
                "turns.chat_template=...",
                file=sys.stderr,
            )
        if interactive:
            line_editing()
            print(f"{request.model.path}; /help lists commands, Ctrl-D ends the chat", flush=True)
        ChatTerminal(models, request, interactive=interactive).run()


def _model_of(what: str) -> str:
    path = str(Path(what) / MODEL) if is_run(what) else what
    if is_reward_model(path):
        raise ConfigError(f"{what}: is a reward model, which gives scores and does not talk")
    return path


def _reference_of(what: str, recipe: Recipe | None) -> str:
    """The model that a run's policy started from, or the one its recipe names as reference."""
    if recipe is None:
        raise ConfigError(f"{what}: is no run, so its reference is not known; name a model with --against")
    supervised = Path(what) / "sft" / MODEL
    path = recipe.reference.model or (str(supervised) if recipe.sft is not None else recipe.model.path)
    if path is None:
        raise ConfigError(f"{what}: started from random weights, which are kept nowhere; name a model with --against")
    return path
