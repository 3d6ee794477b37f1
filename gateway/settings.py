"""The gateway's settings: frozen, parsed once, passed down."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.api_keys import KeyRule, rule_of
from shared.durability import NOT_WAITING, Durability
from shared.errors import ConfigError
from shared.grammar import CALL_FORMATS
from shared.rates import Rates
from shared.types import GatewayId


@dataclass(frozen=True, slots=True)
class ExtraModel:
    """One more model behind the same gateway, in a pool of its own."""

    name: str
    model: Path
    pool: str

    @classmethod
    def parse(cls, text: str) -> ExtraModel:
        """`NAME=DIRECTORY@POOL`. Raises `ConfigError`."""
        name, _, rest = text.partition("=")
        model, _, pool = rest.rpartition("@")
        _need(bool(name and model and pool), f"--extra-model {text} must read NAME=DIRECTORY@POOL")
        _need(Path(model).is_dir(), f"--extra-model {text}: {model} is no directory")
        return cls(name, Path(model), pool)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway process. Seconds and tokens in the names."""

    redis_url: str = field(repr=False)
    model: Path
    """Where the tokenizer, and `config.json` for the model's length, are read from."""
    served_model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free port; what was taken is logged."""
    pool: str = "default"
    extra_models: tuple[ExtraModel, ...] = ()
    """Further models, each in a pool of its own; requests go by `model`."""
    max_model_tokens: int = 0
    """Prompt and output together; 0: as the model's `config.json` says."""
    default_max_tokens: int = 4096
    """Bound of `max_tokens` of chat and responses when the client gives none."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Accepted keys; none here and in `key_rules`: everybody may call, and everybody sees every request whose id they know."""
    no_auth: bool = False
    """Said aloud: no keys although other machines can connect."""
    ping_s: float = 15.0
    """Silence on a stream after which a comment is sent, so that proxies keep it open."""
    poll_s: float = 0.2
    """Fallback poll of followed logs, should a wake-up be lost."""
    verify_s: float = 30.0
    """Silence of a followed log after which it is checked that the server still has it."""
    beat_s: float = 1.0
    watch_s: float = 5.0
    """How often the gateway looks which workers there are: what does not fit any of them is refused at the door."""
    buffer_entries: int = 512
    """Log entries kept for one slow client; beyond, it reads them again from the log later."""
    cancel_wait_s: float = 5.0
    """How long a cancel call waits for the request's end before it answers with the object as it is."""
    shutdown_s: float = 30.0
    """How long open streams may go on after SIGTERM."""
    tokenizer_threads: int = 2
    durability: Durability = NOT_WAITING
    """What must have happened to a request before it is accepted, to a token before it is shown."""
    tool_call_format: str = ""
    """How the first model writes tool calls, where its template does not say it: a name in `CALL_FORMATS`."""
    key_rules: tuple[KeyRule, ...] = ()
    """Further accepted keys, known by their digests."""
    requests_per_minute: int = 0
    """Of each key that names no rate of its own, or of everybody together where no keys are needed; 0: no limit."""
    tokens_per_minute: int = 0
    gateway_id: GatewayId = field(default_factory=lambda: GatewayId(f"gw-{secrets.token_hex(6)}"))
    """One life of this process: its listeners hold while it beats."""

    def __post_init__(self) -> None:
        _need(bool(self.served_model_name), "--served-model-name must not be empty: give the name clients put into `model`")
        _need(self.model.is_dir(), f"--model {self.model} is no directory: point it at one with tokenizer and config.json")
        _need(0 <= self.port <= 65535, f"--port {self.port} is no port: choose 0..65535")
        _need(self.max_model_tokens >= 0, "--max-model-tokens must be positive, or 0 to read it from the model's config.json")
        need_keys(self.host, bool(self.rules), no_auth=self.no_auth)
        need_distinct(self.served_model_name, self.pool, self.extra_models)
        formats = ", ".join(CALL_FORMATS)
        _need(self.tool_call_format in ("", *CALL_FORMATS), f"--tool-call-format {self.tool_call_format}: choose one of {formats}")
        for name in ("requests_per_minute", "tokens_per_minute"):
            _need(getattr(self, name) >= 0, f"--{name.replace('_', '-')} must be positive, or 0 for no limit")
        for name in ("default_max_tokens", "ping_s", "poll_s", "verify_s", "beat_s", "watch_s", "buffer_entries", "tokenizer_threads"):
            _need(getattr(self, name) > 0, f"--{name.replace('_', '-')} must be positive")

    @property
    def rules(self) -> tuple[KeyRule, ...]:
        """Of every accepted key."""
        return (*map(rule_of, self.api_keys), *self.key_rules)

    @property
    def rates(self) -> Rates:
        return Rates(self.requests_per_minute, self.tokens_per_minute)

    @property
    def model_tokens(self) -> int:
        """Most tokens of prompt and output together."""
        return self.max_model_tokens or model_length(self.model)


def model_length(model_dir: Path) -> int:
    """`max_position_embeddings` (or `n_positions`) of a model directory."""
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}): give --max-model-tokens, or a directory with the model's config.json") from error
    length = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(length, int) or length < 2:
        raise ConfigError(f"{path} names no max_position_embeddings: give --max-model-tokens")
    return length


def api_keys_of(given: Iterable[str]) -> tuple[str, ...]:
    """Keys as options and environment give them, several in one text with commas between. Raises `ConfigError` for a text without one."""
    keys: list[str] = []
    for text in given:
        found = [key.strip() for key in text.split(",") if key.strip()]
        _need(bool(found), "--api-key holds no key: give one, or leave the option out")
        keys += found
    return tuple(dict.fromkeys(keys))


def need_distinct(name: str, pool: str, extra_models: Sequence[ExtraModel]) -> None:
    """Raises `ConfigError` if two models have one name or one pool."""
    names = [name, *(extra.name for extra in extra_models)]
    pools = [pool, *(extra.pool for extra in extra_models)]
    _need(len(set(names)) == len(names), f"--extra-model: {', '.join(names)} name a model twice")
    _need(len(set(pools)) == len(pools), f"--extra-model: a pool serves one model, but {', '.join(pools)} name one twice")


def need_keys(host: str, keys: bool, *, no_auth: bool) -> None:
    """Raises `ConfigError` where strangers could call: an address beyond this machine, no keys, and nobody said that this is meant."""
    safe = keys or no_auth or _loopback(host)
    _need(safe, f"--host {host} lets other machines in, without a key: give --api-key (or HEADSTART_API_KEYS), or say --no-auth")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _need(truth: bool, message: str) -> None:
    if not truth:
        raise ConfigError(message)
