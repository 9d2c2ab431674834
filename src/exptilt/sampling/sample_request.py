"""Settings of `exptilt sample`: what is asked, of whom, and how answers are drawn. Never imports torch."""

from __future__ import annotations

from exptilt.sampling.sampling_law import SamplingLaw
from exptilt.servers.endpoint import Endpoint
from exptilt.settings.data_settings import DataConfig
from exptilt.settings.declaration import as_dict, config
from exptilt.settings.model_settings import ModelConfig
from exptilt.settings.ranges import Positive
from exptilt.settings.yaml_source import to_yaml


@config
class ServerConfig:
    """An OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`, a provider."""

    url: str
    """Its base, such as http://localhost:8000/v1."""
    model: str
    """What it calls the model."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is written nowhere."""
    confirmed: bool = False
    """Whether prompts may leave this machine; needed for a host that is not local."""
    concurrency: int = 8
    """Calls at once."""
    timeout: Positive = 120.0
    """Seconds for one call."""
    max_retries: int = 5
    """How often the client tries a call again after 408, 409, 429, 5xx or a broken connection."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.confirmed and not self.endpoint.is_local:
            raise ValueError(
                f"confirmed must be true for {self.endpoint.host}: it is not this machine, and every prompt would be sent there"
            )

    @property
    def endpoint(self) -> Endpoint:
        """The server, as the client that judges share with samplers takes it.

        Raises:
            ConfigError: `url` is no address, or holds a user, a password or a query.
        """
        return Endpoint(
            base_url=self.url,
            key_variable=self.key_variable,
            concurrency=self.concurrency,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )


@config
class SampleRequest:
    """Completions of prompts: from a model in this process, or from a server."""

    output: str
    """The folder the samples go to; made if absent, gone on with if it holds samples of an equal request."""
    data: DataConfig
    """Where prompts come from; of rows that have completions the prompts are taken."""
    model: ModelConfig | None = None
    """The model or adapter to draw from."""
    server: ServerConfig | None = None
    """The server to ask instead."""
    num_samples: int = 4
    """Completions of each prompt."""
    law: SamplingLaw = SamplingLaw()
    """How they are drawn."""
    seed: int = 0
    """One stream of random numbers for each seed, prompt and completion."""
    batch_size: int = 256
    """Completions drawn at a time; it changes nothing beyond rounding."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.server is None):
            raise ValueError("model and server: give one of them")
        for name, least in (("num_samples", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.server is not None:
            bent = {"top_k", "repetition_penalty", "min_new_tokens"} & self.law.bends.keys()
            if bent or self.law.eos_ids is not None:
                name = sorted(bent | ({"eos_ids"} if self.law.eos_ids is not None else set()))[0]
                raise ValueError(f"law.{name} is not part of the protocol that servers share; leave it out")

    def identified(self, identity: str) -> str:
        """Everything that decides what is drawn of one prompt, as YAML: more prompts, more samples or other batches are
        the same request.

        Args:
            identity: of the weights or the server.
        """  # noqa: D205
        stated = as_dict(self)
        free = ("output", "num_samples", "batch_size")
        kept = {name: value for name, value in stated.items() if name not in free and value is not None}
        rendering = ("template", "chat_template", "template_args", "fold_system")
        kept["data"] = {name: stated["data"][name] for name in rendering if stated["data"].get(name)}
        if self.server is not None:
            kept["server"] = {"url": self.server.url, "model": self.server.model}
        return to_yaml({"identity": identity, **kept})
