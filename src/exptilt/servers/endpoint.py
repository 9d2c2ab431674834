"""Where an OpenAI-compatible server is, and how it may be asked. Never imports torch."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from exptilt.errors import ConfigError

KEY = "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"
"""Sent to a server on this machine that wants no key; the client refuses to send nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server's address and the limits of asking it.

    Example:
        >>> Endpoint(base_url="http://me:secret@localhost/v1")
        Traceback (most recent call last):
        ...
        exptilt.errors.ConfigError: the server's address must hold no user, password or query: a key belongs in the environment
    """

    base_url: str = OPENAI
    key_variable: str = KEY
    """The environment variable that holds the key; the key itself is written nowhere."""
    concurrency: int = 32
    """Calls in flight at a time."""
    rate: float | None = None
    """Attempts a second at most, all together, retries included."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    max_retries: int = 5
    """After 408, 409, 429, 5xx, a time-out or a broken connection."""

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.base_url)
            _ = address.port
        except ValueError as error:
            raise ConfigError(f"{self.base_url}: is no address of a server: {error}") from None
        if address.username or address.password or address.query or address.fragment:
            raise ConfigError(
                "the server's address must hold no user, password or query: a key belongs in the environment"
            )
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(f"{self.base_url}: a server's address begins with http:// or https:// and names a host")

    @property
    def host(self) -> str:
        """The host's name."""
        return urlsplit(self.base_url).hostname or self.base_url

    @property
    def is_local(self) -> bool:
        """Whether texts stay on this machine.

        Example:
            >>> [Endpoint(base_url=f"http://{host}/v1").is_local for host in ("127.0.0.2", "[::1]:80", "localhost.example.com")]
            [True, True, False]
        """
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified

    def key(self) -> str:
        """The key from the environment.

        Raises:
            ConfigError: there is none for a server elsewhere, or one that no header can hold. No message shows the key.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key and not self.is_local:
            raise ConfigError(f"{self.host}: set {self.key_variable} in the environment; the key is written nowhere")
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"{self.host}: {self.key_variable} holds characters that no key has; set it anew")
        return key or NO_KEY
