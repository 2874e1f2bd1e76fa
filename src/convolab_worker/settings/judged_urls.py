"""Reads addresses that are not plain, and says what is wrong with those that can't be used.

This is the only place that judges an address. Every refusal is a ``ValueError`` whose text says
what to write instead, ready to follow the word "expected"; it repeats no part of the address, which
may be a secret.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from convolab_worker.settings.sentinels import Sentinels
from convolab_worker.settings.urls import (
    DEFAULT_PORT,
    REDIS_SCHEMES,
    SENTINEL_SCHEMES,
    TLS_FILES,
    RedisUrl,
    starts_with,
)

_SENTINEL_PORT = 26379
_CREDENTIALS = "in a user or password, write / as %2F, ? as %3F, # as %23, @ as %40, [ ] as %5B %5D"
_FORM = f"SCHEME://[USER:PASSWORD@]HOST[:PORT] with a port from 1 to 65535; {_CREDENTIALS}"
_DATABASE = f"a database number after the host, as in redis://host:6379/0; {_CREDENTIALS}"
_SOCKET = "the absolute path of a socket after unix://, as in unix:///run/redis.sock"

_SENTINEL_FORM = (
    "redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/PRIMARY[/DATABASE], "
    f"PRIMARY being the name that the Sentinels know; {_CREDENTIALS}"
)

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")
_TLS_VALUES = {"ssl_cert_reqs": ("required", "optional", "none")}
_TLS_OPTIONS = (*_TLS_VALUES, *TLS_FILES, "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password", "sentinel_ssl")
_OPTIONS = ("db", "username", "password", *_TLS_OPTIONS)
# Options that redis-py, ioredis, Celery and others take in an address, and that mean nothing here.
# An option that none of them has is a mistake.
_OF_OTHERS = frozenset(
    {
        "abortConnect", "cache_enabled", "client_cache", "client_name", "connectTimeout",
        "connection_pool", "connect_timeout", "decode_responses", "encoding", "encoding_errors",
        "enableReadyCheck", "family", "health_check_interval", "keepAlive", "keyPrefix",
        "lazyConnect", "lib_name", "lib_version", "maxRetriesPerRequest", "max_connections",
        "max_idle", "name", "pool_size", "pool_timeout", "protocol", "read_timeout",
        "retry_on_error", "retry_on_timeout", "showFriendlyErrorStack",
        "single_connection_client", "socket_connect_timeout", "socket_keepalive",
        "socket_keepalive_options", "socket_read_size", "socket_timeout", "timeout",
        "visibility_timeout", "virtual_host", "write_timeout",
    }
)  # fmt: skip


def redis_url(url: str) -> RedisUrl:
    """Read an address as ``parse_redis_url`` does, which reads the plain ones by itself."""
    if url.partition("://")[0].lower() in SENTINEL_SCHEMES:
        return _parse_sentinels(url)
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
    query = _options(parts.query, _OPTIONS)
    in_path = "" if is_unix else parts.path.strip("/")
    return RedisUrl(
        host=parts.hostname or "localhost",
        port=DEFAULT_PORT if port is None else port,
        path=unquote(parts.path) if is_unix else None,
        tls=parts.scheme == "rediss",
        username=unquote(parts.username) if parts.username else query.get("username"),
        password=unquote(parts.password) if parts.password else query.get("password"),
        database=_database(query.get("db") or in_path or "0"),
        tls_options=_tls_options(parts.scheme, query),
        sentinels=None,
    )


def _parse_sentinels(url: str) -> RedisUrl:
    """Read ``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/PRIMARY/DATABASE``."""
    _refuse_white_space(url)
    scheme, _, rest = url.partition("://")
    location, _, query_text = rest.partition("?")
    authority, _, path = location.partition("/")
    if "#" in rest or "@" in f"{path}{query_text}":
        raise ValueError(_SENTINEL_FORM)
    credentials, _, hosts = authority.rpartition("@")
    master, _, database = path.strip("/").partition("/")
    if not hosts or not master:
        raise ValueError(_SENTINEL_FORM)
    query = _options(query_text, (*_OPTIONS, *_SENTINEL_OPTIONS))
    nodes = tuple(_sentinel_node(host) for host in hosts.split(","))
    username, _, password = credentials.partition(":")
    tls = scheme.lower().startswith("rediss")
    sentinel_ssl = query.get("sentinel_ssl")
    sentinel_tls = tls if sentinel_ssl is None else _switch("sentinel_ssl", sentinel_ssl.lower())
    return RedisUrl(
        host=nodes[0][0],
        port=nodes[0][1],
        path=None,
        tls=tls,
        username=unquote(username) or query.get("username"),
        password=unquote(password) or query.get("password"),
        database=_database(query.get("db") or database or "0"),
        tls_options=_tls_options("rediss" if tls or sentinel_tls else "redis", query),
        sentinels=Sentinels(
            nodes=nodes,
            master=unquote(master),
            username=query.get("sentinel_username"),
            password=query.get("sentinel_password"),
            tls=sentinel_tls,
        ),
    )


def _sentinel_node(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"redis://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(_SENTINEL_FORM) from None
    if not host or port == 0 or "@" in text:
        raise ValueError(_SENTINEL_FORM)
    return host, _SENTINEL_PORT if port is None else port


def _options(text: str, known: tuple[str, ...]) -> dict[str, str]:
    """Return the options of an address that have a meaning here.

    Raises for one that no client knows, with the nearest of the ``known`` ones.
    """
    query = dict(parse_qsl(text))
    for name in query:
        if name not in known and name not in _OF_OTHERS and not name.startswith("ssl_"):
            msg = f"no option that is not known; the options are {', '.join(known)}"
            from difflib import get_close_matches  # only a mistake needs it

            near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
            if near:
                msg = f"{near[0]}= instead of an option that is almost called so"
            raise ValueError(msg)
    return query


def check_http_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raise for an address without one of the schemes, without a host or with a bad port."""
    parts, port = _split(url, schemes)
    if not parts.hostname:
        msg = "a host after the scheme"
        raise ValueError(msg)
    if port == 0:
        raise ValueError(_FORM)


def _refuse_white_space(url: str) -> None:
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        msg = "an address without white space; in a user or password, write a space as %20"
        raise ValueError(msg)


def _split(url: str, schemes: tuple[str, ...]) -> tuple[SplitResult, int | None]:
    _refuse_white_space(url)
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
        if name not in TLS_FILES:
            given[name] = _tls_word(name, value.lower())
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        msg = "ssl_certfile as well as ssl_keyfile"
        raise ValueError(msg)
    return tuple(given.items())


def _tls_word(name: str, value: str) -> str:
    if name == "ssl_check_hostname" and value in (*_TRUE, *_FALSE):
        return "true" if _switch(name, value) else "false"
    if value in _TLS_VALUES.get(name, ()):
        return value
    if value.removeprefix("cert_") in _TLS_VALUES.get(name, ()):  # as Celery writes it
        return value.removeprefix("cert_")
    words = _TLS_VALUES.get(name, ("true", "false"))
    msg = f"{name} to be one of {', '.join(words)}"
    raise ValueError(msg)


def _switch(name: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        msg = f"{name} to be one of true, false"
        raise ValueError(msg)
    return value in _TRUE
