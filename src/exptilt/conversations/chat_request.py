"""Settings of `exptilt chat`. Never imports torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.settings.declaration import config
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.ranges import Range

POLICY, REFERENCE = "policy", "reference"
"""What the two models of a request are called."""


@config
class TurnsConfig:
    """How turns become the text that a model reads; of a run, what its recipe says under `data`."""

    template: Literal["auto", "chat", "messages", "plain"] = "auto"
    """plain writes Human/Assistant, as does a tokenizer without a chat template; all others take the chat template."""
    chat_template: str | None = None
    """Chat template to use: a name in the tokenizer's folder, a .jinja file, or ours (gemma, mistral, phi3, qwen3)."""
    template_args: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    """What the chat template is given: `{enable_thinking: false}`."""
    fold_system: bool = False
    """Put a system turn's text before the first user's, for chat templates without a system turn."""


@config
class ChatRequest:
    """Who is talked to, and how answers are drawn."""

    model: ModelConfig
    """The model or adapter."""
    against: ModelConfig | None = None
    """A second model, whose answers are shown beside the first's."""
    turns: TurnsConfig = TurnsConfig()
    law: SamplingLaw = SamplingLaw(max_new_tokens=512)
    """How answers are drawn; by default from the model's own distribution."""
    seed: Annotated[int, Range(ge=0)] = 0
    """One seed gives one answer to one conversation: that of `exptilt sample`."""
    system: str = ""
    """The system prompt; empty for none."""
