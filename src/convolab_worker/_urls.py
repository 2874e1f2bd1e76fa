"""Addresses as settings have them: what they mean, what is wrong with them, and how to show them.

This is the only place that judges an address. Every refusal is a ``ValueError`` whose text says
what to write instead, ready to follow the word "expected"; it repeats no part of the address, which
may be a secret.
"""

from __future__ import annotations

import re
from typing import TypedDict
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

REDIS_SCHEMES = ("redis", "rediss", "unix")

_DEFAULT_PORT = 6379
_CREDENTIALS = "in a user or password, write / as %2F, ? as %3F, # as %23, @ as %40, [ ] as %5B %5D"
_FORM = f"SCHEME://[USER:PASSWORD@]HOST[:PORT] with a port from 1 to 65535; {_CREDENTIALS}"
_DATABASE = f"a database number after the host, as in redis://host:6379/0; {_CREDENTIALS}"
_SOCKET = "the absolute path of a socket after unix://, as in unix:///run/redis.sock"

# A password stands where a port should when the host was forgotten: redis://me:secret.
_PASSWORD_AS_PORT = re.compile(
    r"^((?:[^:/]*://)?(?:\[[^\]]*\]|[^:/?#\[]*):)(?!//|[0-9]*(?:[/?#]|$)).+$", re.DOTALL
)

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")
_TLS_VALUES = {"ssl_cert_reqs": ("required", "optional", "none")}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_TLS_VALUES, *_TLS_FILES, "ssl_check_hostname")


class RedisUrl(TypedDict):
    """What a Redis address means; ``path`` is that of a Unix socket."""

    host: str
    port: int
    path: str | None
    tls: bool
    username: str | None
    password: str | None
    database: int
    tls_options: tuple[tuple[str, str], ...]


def parse_redis_url(url: str) -> RedisUrl:
    """Read ``redis://``, ``rediss://`` or ``unix://`` as redis-py and ioredis read them.

    The query may hold ``db``, ``username``, ``password`` and redis-py's ``ssl_*`` names. Other
    names are ignored: they are the options of other clients.
    """
    parts, port = _split(url, REDIS_SCHEMES)
    is_unix = parts.scheme == "unix"
    if is_unix:
        _refuse_bad_socket(parts.netloc, parts.path)
    elif port == 0:
        raise ValueError(_FORM)
    elif "@" in f"{parts.path}{parts.query}{parts.fragment}":
        msg = f"no @ after the host; {_CREDENTIALS}"
        raise ValueError(msg)
    if "#" in url:
        msg = f"no #; {_CREDENTIALS}"
        raise ValueError(msg)
    query = dict(parse_qsl(parts.query))
    in_path = "" if is_unix else parts.path.strip("/")
    return RedisUrl(
        host=parts.hostname or "localhost",
        port=_DEFAULT_PORT if port is None else port,
        path=unquote(parts.path) if is_unix else None,
        tls=parts.scheme == "rediss",
        username=unquote(parts.username) if parts.username else query.get("username"),
        password=unquote(parts.password) if parts.password else query.get("password"),
        database=_database(query.get("db") or in_path or "0"),
        tls_options=_tls_options(parts.scheme, query),
    )


def check_http_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raise for an address without one of the schemes, without a host or with a bad port."""
    parts, port = _split(url, schemes)
    if not parts.hostname:
        msg = "a host after the scheme"
        raise ValueError(msg)
    if port == 0:
        raise ValueError(_FORM)


def starts_with(schemes: tuple[str, ...]) -> str:
    """Return what an address of one of these schemes looks like, in words."""
    *most, last = (f"{scheme}://" for scheme in schemes)
    return f"an address that starts with {', '.join(most)} or {last}"


def mask_url(url: str) -> str:
    """Return the address with whatever could be a password in it replaced by ``***``."""
    masked = re.sub(r"((?:password|token)=)[^&#]*", r"\1***", url, flags=re.IGNORECASE)
    before, at, after = masked.rpartition("@")
    if not at:
        return _PASSWORD_AS_PORT.sub(r"\1***", masked)
    scheme, separator, credentials = before.rpartition("://") if "://" in before else ("", "", "")
    if separator and credentials.startswith(":"):
        return f"{scheme}://:***@{after}"
    user = re.match(r"[^:/@]+(?=:)", credentials)
    return f"{scheme}{separator}{user[0] + ':' if user else ''}***@{after}"


def _split(url: str, schemes: tuple[str, ...]) -> tuple[SplitResult, int | None]:
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        msg = "an address without white space; in a user or password, write a space as %20"
        raise ValueError(msg)
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise ValueError(starts_with(schemes))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text would repeat the password
        raise ValueError(_FORM) from None
    return parts, port


def _refuse_bad_socket(netloc: str, path: str) -> None:
    if not path.strip("/") or (netloc and not netloc.endswith("@")):
        msg = f"{_SOCKET}; {_CREDENTIALS}"
        raise ValueError(msg)


def _database(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(_DATABASE)
    return int(text)


def _tls_options(scheme: str, query: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the options for TLS, their values in lower case where they are words."""
    given = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if given and scheme != "rediss":
        msg = f"rediss:// in front of an address with {next(iter(given))}"
        raise ValueError(msg)
    for name, value in given.items():
        if name not in _TLS_OPTIONS:
            msg = f"no option but {', '.join(_TLS_OPTIONS)} that starts with ssl_"
            raise ValueError(msg)
        if name not in _TLS_FILES:
            given[name] = _tls_word(name, value.lower())
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        msg = "ssl_certfile as well as ssl_keyfile"
        raise ValueError(msg)
    return tuple(given.items())


def _tls_word(name: str, value: str) -> str:
    if name == "ssl_check_hostname" and value in (*_TRUE, *_FALSE):
        return "true" if value in _TRUE else "false"
    if value in _TLS_VALUES.get(name, ()):
        return value
    words = _TLS_VALUES.get(name, ("true", "false"))
    msg = f"{name} to be one of {', '.join(words)}"
    raise ValueError(msg)
