"""`exptilt chat`: talk to a model in the terminal, or compare it blindly with another on a page."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from exptilt.conversations.chat_request import POLICY, REFERENCE, ChatRequest
from exptilt.conversations.chat_terminal import ChatTerminal, line_editing
from exptilt.conversations.model_process import ModelProcess
from exptilt.data.turns import Message
from exptilt.errors import ConfigError
from exptilt.policies.model_files import check_model_files
from exptilt.run_folder.file_names import CONFIG, MODEL
from exptilt.runs.text_model import model_of_texts
from exptilt.settings.evaluated_recipe import is_reward_model, is_run
from exptilt.settings.load import load
from exptilt.settings.recipe import Recipe

_HOST = "127.0.0.1"
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
    path = _model_of(what)
    recipe = load(Recipe, Path(what) / CONFIG) if is_run(what) else None
    stated = [f"model.path={json.dumps(path)}", f"system={json.dumps(system)}"]
    if recipe is not None:
        stated += [f"turns.{name}={json.dumps(getattr(recipe.data, name))}" for name in _TURNS]
        stated.append(f"model.trust_remote_code={json.dumps(recipe.model.trust_remote_code)}")
    if against == "reference":
        stated += _reference_of(what, recipe)
    elif against is not None:
        stated.append(f"against.path={json.dumps(_model_of(against))}")
    return load(ChatRequest, None, [*stated, *overrides])


def chat(request: ChatRequest) -> None:
    """Talk in the terminal until the lines end.

    Raises:
        ModelError: the model cannot be loaded, or its process ends while nobody types.
    """
    interactive = sys.stdin.isatty()
    with ModelProcess(request) as models:
        _note_templates(models)
        if interactive:
            line_editing()
            print(f"{request.model.path}; /help lists commands, Ctrl-D ends the chat", flush=True)
        ChatTerminal(models, request, interactive=interactive).run()


def chat_page(
    request: ChatRequest,
    names: tuple[str, str],
    *,
    store: str = "votes.db",
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Open a page on which two models answer side by side, without names; votes go to a store.

    Args:
        request: with a second model.
        names: of the two models, as the store keeps them.
        store: a file, or a `postgresql://` URL.
        port: as for `exptilt label`.
        browser: whether the page is opened in the user's browser.

    Raises:
        ExptiltError: the store, the port or a model cannot be used; nothing is served.
    """
    from exptilt.people.arena import Arena
    from exptilt.people.arena_page import arena_routes
    from exptilt.people.page_app import create_app
    from exptilt.people.page_frame import PageFrame
    from exptilt.people.page_guard import people_of, secret_of
    from exptilt.people.page_server import bound_socket, links_of, names_of, serve_page
    from exptilt.verbs.label import user_name
    from exptilt.votes.vote_store import VoteStore

    if len(set(names)) < 2:
        raise ConfigError(f"--against {names[1]}: is the same model; name another")
    with VoteStore(store) as votes, bound_socket(_HOST, port) as listening, ModelProcess(request) as models:

        def answer(model: int, turns: tuple[Message, ...], number: int) -> str:
            which = (POLICY, REFERENCE)[model]
            return "".join(models.answer(which, turns, request.law, seed=request.seed, index=2 * number + model))

        _note_templates(models)
        arena = Arena(votes, answer, names, request.system, request.seed)
        people = people_of((), user_name(), secret_of(store))
        app = create_app(people, names_of(_HOST), [arena_routes(arena, PageFrame())])
        print(f"{names[0]} against {names[1]}; votes go to {votes.name}")
        link = links_of(people, _HOST, listening.getsockname()[1])[0][1]
        print(
            f"  {people[0].name}: {link}\nCtrl-C ends it; every vote is on disk before the page moves on.", flush=True
        )
        if browser and sys.stdout.isatty():
            webbrowser.open(link)
        serve_page(app, listening)
        arena.close()
    print(f"\nvotes are in {store}; next: exptilt pair {store}")


def _note_templates(models: ModelProcess) -> None:
    if models.without_template:
        print(
            f"note: the tokenizer of the {' and the '.join(models.without_template)} has no chat template, so turns are written "
            "Human: and Assistant:; name one with turns.chat_template=...",
            file=sys.stderr,
        )


def _model_of(what: str) -> str:
    path = model_of_texts(what)
    if is_reward_model(path):
        raise ConfigError(f"{what}: is a reward model, which gives scores and does not talk")
    check_model_files(path)
    return path


def _reference_of(what: str, recipe: Recipe | None) -> list[str]:
    """Settings of the model that a run's policy started from, with the run's tokenizer, or of its recipe's other reference."""
    if recipe is None:
        raise ConfigError(f"{what}: is no run, so its reference is not known; name a model with --against")
    if recipe.reference.model is not None:
        return [f"against.path={json.dumps(recipe.reference.model)}"]
    start: dict[str, object] = {"path": recipe.model.path, "revision": recipe.model.revision}
    if recipe.sft is not None:
        start = {"path": str(Path(what) / "sft" / MODEL)}
    elif recipe.adapter is not None and recipe.adapter.path is not None:
        start = {"path": recipe.adapter.path}
    if start["path"] is None:
        raise ConfigError(f"{what}: started from random weights, which are kept nowhere; name a model with --against")
    start |= {"tokenizer": str(Path(what) / MODEL), "trust_remote_code": recipe.model.trust_remote_code}
    return [f"against.{name}={json.dumps(value)}" for name, value in start.items()]
