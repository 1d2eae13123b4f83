"""Settings of the server, and how much anyone may ask of it."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.inference.engine import EngineConfig

KEY_VARIABLE = "FROMZERO_API_KEY"


@dataclass(frozen=True)
class LimitsConfig:
    """What one request may ask; more is refused before any work is done."""

    body_bytes: int = 2_000_000
    """Longest body of a request."""
    body_depth: int = 64
    """Most lists and mappings in each other in it."""
    header_bytes: int = 16_384
    """Longest request line and headers."""
    header_seconds: float = 10.0
    """Time for a client to send its headers, and again for its body."""
    send_seconds: float = 30.0
    """Time for a client to take a piece of an answer; one that takes none has its request cancelled."""
    request_seconds: float = 600.0
    """Longest time of an answer, in the queue and after."""
    connections: int = 2048
    """Most connections at once."""
    prompts: int = 64
    """Most prompts (texts, when they are embedded) of a request."""
    n: int = 16
    """Most answers to a prompt, best_of included."""
    stop: int = 16
    """Most stop texts or ids ..."""
    stop_characters: int = 256
    """... and how long they may be."""
    adapters: int = 32
    """Most adapters at once."""
    logprobs: int = 20
    """Most likeliest tokens beside each token."""


@dataclass(frozen=True)
class ServeConfig:
    """Which model is served, where, and to whom."""

    model: Path
    """Folder or GGUF file of a model, or the name of a downloaded one."""
    adapters: tuple[str, ...] = ()
    """Adapters of the model that clients may ask for as models of their own: NAME=FOLDER, or FOLDER alone, whose last
    part is then the name."""
    allow_adapter_loading: Path | None = None
    """Folder from which clients that have the key may load further adapters while the server runs, and unload them;
    null: they may not."""
    host: str = "127.0.0.1"
    """Address to listen at; that of another than this machine needs a key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    name: str | None = None
    """What clients call the model; null: the last part of its path."""
    api_key: str | None = None
    """The key that clients give; null: what the variable FROMZERO_API_KEY has, or api_key_file."""
    api_key_file: Path | None = None
    """File that holds the key."""
    allow_no_key: bool = False
    """Whether anyone who reaches the address may use it, when that is not only this machine."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser, such as https://chat.example.org."""
    drain: float = 30.0
    """Seconds that running answers get to end when the server is told to stop."""
    device: DeviceName = "auto"
    """Where the model runs."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much is computed at once."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """How much anyone may ask."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UserError(f"port is {self.port}; it must be from 0 to 65535")
        _ = self.adapter_folders
        if "*" in self.cors_origins:
            raise UserError("cors_origins may not be '*': name the origins whose pages may call the server")

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        return self.name or self.model.name or "model"

    @property
    def adapter_folders(self) -> dict[str, Path]:
        """Those of `adapters` by name. Raises UserError for names that can't be told apart."""
        pairs = [(name or Path(given).name, Path(given)) for name, given in map(_named, self.adapters)]
        folders = dict(pairs)
        if len(folders) < len(pairs) or self.served_name in folders:
            raise UserError("adapters: two of them, or one and the model, have the same name; say NAME=FOLDER")
        return folders

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _named(given: str) -> tuple[str, str]:
    name, equals, folder = given.partition("=")
    return (name, folder) if equals else ("", given)


def find_key(config: ServeConfig) -> str | None:
    """The key that clients must give, if any. Raises UserError when there should be one, or it can't be one."""
    key = config.api_key or os.environ.get(KEY_VARIABLE) or None
    if config.api_key_file is not None:
        try:
            key = config.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the key can't be read from {config.api_key_file} ({error}); name a text file") from None
    if key is None and not config.loopback and not config.allow_no_key:
        raise UserError(
            f"others can reach {config.host}, and there is no key; set {KEY_VARIABLE} or --api_key_file, or say"
            " --allow_no_key true"
        )
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise UserError("the key must be of printable ASCII characters, without blanks around them; choose another")
    if key is None and config.allow_adapter_loading is not None:
        raise UserError(f"allow_adapter_loading needs a key; set {KEY_VARIABLE} or --api_key_file")
    return key
