"""Settings of a grid of win rates: policies x temperatures x checkpoints x replicates, on one data set or two."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from exptilt.errors import ConfigError
from exptilt.sampling.sample_request import SampleRequest, ServerConfig
from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.declaration import config
from exptilt.settings.model_settings import ModelConfig

ROW_ANSWERS = ("chosen", "reference")
"""Words of `against` for the rows' own answer."""


@config
class PromptedConfig:
    """What a model is shown besides the prompt: a baseline that is prompted instead of trained."""

    shots: int = 0
    """Examples before the prompt, the same for all prompts; 0 is zero-shot."""
    examples: DataConfig | None = None
    """Training rows that the examples are drawn from; of a preference the chosen side is shown."""
    instruction: str = ""
    """Text before everything else; a system turn where prompts are turns."""
    separator: str = "\n\n###\n\n"
    """Between the examples of a prompt that is text. An answer ends where the model writes it."""

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(f"shots must be >= 0, got {self.shots}")
        if (self.shots > 0) != (self.examples is not None):
            raise ValueError("shots and examples: give both, or neither")
        if not self.separator.strip():
            raise ValueError("separator must hold more than white space, or answers would end at their first paragraph")


@config
class PolicyConfig:
    """One policy of a grid: a model, a server, or a file of answers."""

    label: str | None = None
    """What it is called; by default the name of its folder, model or file."""
    model: ModelConfig | None = None
    """`path` may be a run folder, too, whose own weights are taken."""
    server: ServerConfig | None = None
    """An OpenAI-compatible server instead."""
    answers: str | None = None
    """A file of answers instead; it has no temperature."""
    checkpoints: list[int] | None = None
    """Steps of a run folder to judge besides its end; [] takes every checkpoint that is there."""
    prompted: PromptedConfig | None = None
    """Show it more than the prompt."""

    def __post_init__(self) -> None:
        given = [name for name in ("model", "server", "answers") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of model, server and answers, got {' and '.join(given) or 'none'}")
        if self.model is not None and self.model.path is None:
            raise ValueError("model.path: name the model, adapter or run")
        if self.checkpoints is not None and self.model is None:
            raise ValueError("checkpoints: only a run folder in model.path has them")
        if self.prompted is not None and self.answers is not None:
            raise ValueError("prompted: answers of a file were prompted already")

    @property
    def title(self) -> str:
        """The label, or a name made of what it is."""
        if self.label is not None:
            return self.label
        if self.answers is not None:
            return Path(self.answers).name.split(".")[0]
        name = self.server.model if self.server is not None else str(self.model and self.model.path)
        name = name.rstrip("/").rsplit("/", 1)[-1]
        return name if self.prompted is None else f"{name}, {self.prompted.shots}-shot"


@config
class NewDistributionConfig:
    """A second data set, which the policies were not trained for."""

    data: DataConfig
    """Its prompts."""
    label: str = "new distribution"
    """What it is called."""
    temperatures: list[float] | None = None
    """Of its samples; null takes those of the grid."""
    template: str | None = None
    """What judges are asked there, where that differs: a template's name, or a file."""


@config
class JudgedGrid:
    """Win rates of policies over sampling temperatures and checkpoints; run the command again to go on after a stop."""

    output: str
    """The folder that samples, numbers and the page go to."""
    data: DataConfig
    """Prompts, all of `train`; rows with a chosen or a reference answer may be the opponent."""
    policies: list[PolicyConfig]
    """Who is judged."""
    against: str = "chosen"
    """The opponent: chosen (the rows' own answer; reference is the same), the label of a policy, or a file of answers."""
    label: str = "test"
    """What the data set is called."""
    temperatures: list[float] = dataclasses.field(default_factory=lambda: [1.0])
    """Every policy answers at each."""
    num_samples: int = 1
    """Answers to each prompt at each temperature (replicates); one at temperature 0."""
    law: SamplingLaw = SamplingLaw()
    """How answers are drawn, the temperature aside."""
    new_data: NewDistributionConfig | None = None
    """A second data set in the same table."""
    reference: ModelConfig | None = None
    """The model from which KL is measured at temperature 1; by default each run's own reference."""
    seed: int = 0
    """One stream of random numbers for each seed, prompt and completion."""
    batch_size: int = 256
    """Completions drawn at a time."""

    def __post_init__(self) -> None:
        if not self.policies or not self.temperatures:
            raise ValueError("policies and temperatures must name at least one each")
        for name, least in (("num_samples", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.law.temperature != 1:
            raise ValueError("law.temperature: name temperatures instead")
        for temperatures in (self.temperatures, (self.new_data and self.new_data.temperatures) or [1.0]):
            if len(set(temperatures)) < len(temperatures) or not all(0 <= one < float("inf") for one in temperatures):
                raise ValueError(f"temperatures must differ and be >= 0 and finite, got {temperatures}")
        _require_distinct([policy.title for policy in self.policies])
        if self.new_data is not None and self.new_data.label == self.label:
            raise ValueError(f"label and new_data.label are both {self.label!r}")
        if len(self.policies) == 1 and self.policies[0].title == self.against:
            raise ValueError(f"against: {self.against} is the only policy")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.output).expanduser()

    @property
    def judged_policies(self) -> list[PolicyConfig]:
        """All policies but the opponent."""
        return [policy for policy in self.policies if policy.title != self.against]

    @property
    def data_sets(self) -> list[tuple[str, DataConfig, list[float]]]:
        """Label, prompts and temperatures of each data set."""
        sets = [(self.label, self.data, self.temperatures)]
        if self.new_data is not None:
            sets.append((self.new_data.label, self.new_data.data, self.new_data.temperatures or self.temperatures))
        return sets

    @property
    def inputs(self) -> dict[str, str]:
        """Every path that is read and must not be overwritten, by what names it."""
        inputs = {
            f"{label} {key}": path for label, data, _ in self.data_sets for key, path in data.paths.items() if path
        }
        for policy in self.policies:
            path = policy.answers or (policy.model.path if policy.model is not None else None)
            if path:
                inputs[f"policies: {policy.title}"] = str(path)
        return inputs

    def request(self, policy: PolicyConfig, data: DataConfig, temperature: float, output: Path) -> SampleRequest:
        """The samples of one policy at one temperature, as `exptilt sample` would be asked for them."""
        return SampleRequest(
            output=str(output),
            data=data,
            model=policy.model,
            server=policy.server,
            num_samples=1 if temperature == 0 else self.num_samples,
            law=replace(self.law, temperature=temperature),
            seed=self.seed,
            batch_size=self.batch_size,
        )


def slug(title: str) -> str:
    """A title as the name of a folder.

    Example:
        >>> slug("DPO, beta 0.1")
        'dpo-beta-0.1'
    """
    bare = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")
    if not bare:
        raise ConfigError(f"the label {title!r} has no letter or digit to name a folder by")
    return bare


def _require_distinct(titles: list[str]) -> None:
    twice = [title for title, count in Counter(map(slug, titles)).items() if count > 1]
    if twice:
        raise ValueError(f"policies: two would be called {twice[0]}; give each a label")
