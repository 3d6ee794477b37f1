"""The message server's address, as people write it: one, or several of which one is the primary's."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from shared.errors import ConfigError

log = logging.getLogger(__name__)

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Options of a `rediss://` address: whom to trust, and our own certificate with its key, where the server wants one."""
TLS_WORDS = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_keyfile_password")
_BETWEEN = re.compile(r",\s*(?=[a-z+]+://)")


def addresses_of(url: str) -> tuple[str, ...]:
    """The addresses of a list with commas between them."""
    return tuple(_BETWEEN.split(url.strip()))


def plain_urls(url: str) -> tuple[str, ...]:
    """The addresses as the client library understands them. Raises `ConfigError` for one that nobody can use."""
    addresses = addresses_of(url)
    plain = tuple(map(plain_url, addresses))
    schemes = {urlsplit(one).scheme for one in addresses}
    if len(addresses) > 1 and (len(schemes) > 1 or schemes & {"redis+cluster", "rediss+cluster"}):
        raise ConfigError(
            f"HEADSTART_REDIS_URL {without_password(url)!r}: a list names a primary and its replicas, all by redis://, by rediss:// or by"
            " unix://; of a cluster one address is enough"
        )
    return plain


def plain_url(url: str) -> str:
    """One address as the client library understands it; raises `ConfigError` for another scheme."""
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"HEADSTART_REDIS_URL {without_password(url)!r}: use redis://, rediss://, unix:// or redis+cluster://")
    if scheme != "unix":
        _check_options(scheme, parts.query)
    return url.replace(scheme, scheme.removesuffix("+cluster"), 1)


def _check_options(scheme: str, query: str) -> None:
    """What the client library would meet with a stack trace, or too late. Raises `ConfigError`."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in (*TLS_FILES, *TLS_WORDS, "db", "protocol"):
            raise ConfigError(f"HEADSTART_REDIS_URL: unknown option {name!r}; there are {', '.join((*TLS_FILES, *TLS_WORDS))}")
        if name.startswith("ssl_") and not scheme.startswith("rediss"):
            raise ConfigError(f"HEADSTART_REDIS_URL: {name} means TLS, which {scheme}:// does not speak: use rediss://")
        if name in TLS_FILES and not Path(value).is_file():
            raise ConfigError(f"HEADSTART_REDIS_URL: {name}={value} is no file")
        if name == "ssl_cert_reqs" and value == "none":
            log.warning("the message server's certificate is not checked (ssl_cert_reqs=none): anybody in between can read and write")


def without_password(url: str) -> str:
    """The address, or the list, for people and logs."""
    return ",".join(map(_without_password, addresses_of(url)))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
