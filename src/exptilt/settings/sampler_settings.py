"""Who draws the completions of rollouts, where it is not the run itself."""

from __future__ import annotations

from typing import Annotated, Literal

from exptilt.settings.declaration import config
from exptilt.settings.ranges import Positive, Range


@config
class SamplerConfig:
    """A server that draws completions and is given the policy's adapter after every update, as vLLM takes it.

    It has to serve the base of the adapter, on this machine or with the run folder's disk, and answer
    `/v1/completions` with token ids and log-probabilities, `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`. vLLM needs
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`, `--enable-lora` and `--max-lora-rank` of at least `adapter.rank`.
    """

    kind: Literal["server"] = "server"
    """A server that speaks the OpenAI protocol."""
    url: str
    """The server's base, such as http://localhost:8000/v1."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is written nowhere."""
    confirmed: bool = False
    """Whether prompts may leave this machine; needed for a host that is not local."""
    concurrency: Annotated[int, Range(ge=1)] = 64
    """Prompts asked at once."""
    timeout: Positive = 600.0
    """Seconds for all completions of one prompt."""
    max_retries: Annotated[int, Range(ge=0)] = 5
    """How often a call is tried again after 408, 409, 429, 5xx or a broken connection."""
