"""Rollouts drawn by a server, which is given the policy's adapter after every update."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from exptilt.data.groups import TokenIds
from exptilt.errors import ConfigError, ServerError
from exptilt.policies.adapters import has_adapter
from exptilt.policies.saving import save_model
from exptilt.processes.world import World
from exptilt.sampling.adapter_swap import AdapterSwap
from exptilt.sampling.drawn_by_server import AskedDraw
from exptilt.sampling.generate import Sample, checked_law
from exptilt.sampling.sample_request import ServerConfig
from exptilt.sampling.sampler import LocalSampler, Sampler
from exptilt.sampling.sampling_law import HasEos, SamplingLaw, require_plain
from exptilt.servers.background_calls import BackgroundCalls
from exptilt.servers.server_client import ServerReply
from exptilt.settings.sampler_settings import SamplerConfig


def open_sampler(
    settings: SamplerConfig | None,
    model: Any,
    end: HasEos | Sequence[int],
    *,
    folder: Path,
    batch_size: int = 256,
    world: World | None = None,
) -> Sampler:
    """The sampler of a run; close it.

    Args:
        settings: of a server; None where the run draws itself.
        model: the policy.
        end: its tokenizer, or the ids that end a completion.
        folder: where adapters for a server go; it is removed in the end.
        batch_size: completions drawn at a time, by the run itself.
        world: the processes of the run; all of them call this.

    Raises:
        ConfigError: all weights are trained, which a server cannot take while it runs; or prompts would leave this
            machine unasked.
        ServerError: no server answers.
    """
    if settings is None:
        return LocalSampler(model, end, batch_size=batch_size)
    return ServerSampler(settings, model, end, folder=folder, world=world)


class ServerSampler:
    """A server draws; see `open_sampler` and `Sampler`."""

    def __init__(
        self,
        settings: SamplerConfig,
        model: Any,
        end: HasEos | Sequence[int],
        *,
        folder: Path,
        world: World | None = None,
    ) -> None:
        if not has_adapter(model):
            raise ConfigError(
                "rollout.sampler: a server takes an adapter while it runs, but all weights only by a restart; train an "
                "adapter (adapter.rank=16), or leave out rollout.sampler, and the run draws itself"
            )
        self._model, self._end, self._folder = model, end, folder.absolute()
        self._world, self._url = world or World.alone(), settings.url
        self._calls = BackgroundCalls(_server(settings).endpoint)
        self._name = ""
        self._run = self._world.first(secrets.token_hex(4))
        """Part of the adapters' names, so that no server takes a new one for one of the same name that it has already."""
        self._calls.__enter__()
        try:
            self._swap = self._world.first_alone(lambda: AdapterSwap(self._calls, self._url, self._folder))
        except BaseException:
            self._calls.__exit__()
            raise

    def take_weights(self, version: int) -> None:
        """Save the adapter under a new name, and let the server load it in the place of the last one."""
        name = f"exptilt-{self._run}-{version}"
        if name == self._name:
            return
        target = self._folder / name
        save_model(self._model, None, target, world=self._world)
        self._world.first_alone(lambda: self._exchange(name, target))
        self._name = name

    def draw(
        self, prompts: Sequence[TokenIds], *, num_samples: int, law: SamplingLaw, seeds: Sequence[int]
    ) -> list[Sample]:
        """Draw completions; see `Sampler`."""
        require_plain(law, "a rollout by a server")
        law = checked_law(self._model, self._end, prompts, law)
        asked = [
            AskedDraw(prompt_index=index, prompt=prompt, count=num_samples, law=law, seed=seed, model=self._name)
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        running = [self._calls.submit(one.body) for one in asked]
        drawn: list[Sample] = []
        try:
            for one, reply in zip(asked, running, strict=True):
                samples = one.samples(_answered(reply))
                if isinstance(samples, str):
                    raise ServerError(f"{self._url}: {samples}")
                drawn += samples
        finally:
            for reply in running:
                reply.cancel()
        return drawn

    def close(self) -> None:
        """Unload the adapter and remove its folder, if the server is still there."""
        if self._swap is not None:
            with suppress(ServerError):
                self._swap.unload()
            shutil.rmtree(self._folder, ignore_errors=True)
        self._calls.__exit__()

    def _exchange(self, name: str, target: Path) -> None:
        assert self._swap is not None  # noqa: S101 - the first process has it
        self._swap.load(name, target)
        for old in self._folder.iterdir():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)


def _answered(reply: Future[ServerReply]) -> ServerReply:
    try:
        return reply.result()
    except ConfigError as error:
        raise ServerError(str(error)) from None


def _server(settings: SamplerConfig) -> ServerConfig:
    try:
        return ServerConfig(
            url=settings.url,
            model="",
            key_variable=settings.key_variable,
            confirmed=settings.confirmed,
            concurrency=settings.concurrency,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
        )
    except ValueError as error:
        raise ConfigError(f"rollout.sampler: {error}") from None
