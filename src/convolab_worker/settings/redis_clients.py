"""Reads a redis-py client: its server's address, TLS, Sentinels and credentials.

The client is the application's; nothing here imports redis-py, connects or asks anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.sentinels import Sentinels
from convolab_worker.settings.urls import TLS_FILES, RedisUrl

if TYPE_CHECKING:
    from collections.abc import Mapping


class CredentialProvider(Protocol):
    """What redis-py's credential providers have, and this library calls."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]: ...

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class GivenServer:
    """The server of a client: what its address would say, and who gives the credentials."""

    url: RedisUrl
    provider: CredentialProvider | None = None

    def __repr__(self) -> str:
        """Where it is, without a password."""
        known = self.url["sentinels"]
        return f"<{known or self.url['path'] or self.url['host']}>"


_REQUIREMENTS = {0: "none", 1: "optional", 2: "required"}


def server_of(client: Any) -> GivenServer:
    """Return the server that a client of redis-py uses. Raises ConfigurationError.

    It may be a client of one server, of Sentinels (``Sentinel.master_for``) or of a cluster.
    """
    nodes_manager = getattr(client, "nodes_manager", None)
    pool = getattr(client, "connection_pool", None)
    if nodes_manager is not None:
        startup = next(iter(nodes_manager.startup_nodes.values()))
        arguments = {
            **getattr(client, "connection_kwargs", {}),
            **getattr(nodes_manager, "connection_kwargs", {}),
            "host": startup.host,
            "port": startup.port,
        }
        return _given(arguments, is_tls=_is_tls(arguments.get("connection_class", object)))
    if pool is None:
        msg = f"from_redis({type(client).__name__}): expected a client of redis-py"
        raise ConfigurationError(msg)
    arguments = pool.connection_kwargs
    is_tls = _is_tls(pool.connection_class)
    if not hasattr(pool, "sentinel_manager"):
        return _given(arguments, is_tls=is_tls)
    return _given(arguments, is_tls=is_tls, sentinels=_sentinels(pool))


def _is_tls(kind: type) -> bool:
    return any("SSL" in base.__name__ for base in kind.__mro__)


def _sentinels(pool: Any) -> Sentinels:
    pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    first = pools[0].connection_kwargs
    return Sentinels(
        nodes=tuple((p.connection_kwargs["host"], int(p.connection_kwargs["port"])) for p in pools),
        master=pool.service_name,
        username=first.get("username"),
        password=first.get("password"),
        tls=_is_tls(pools[0].connection_class),
    )


def _given(
    arguments: Mapping[str, Any], *, is_tls: bool, sentinels: Sentinels | None = None
) -> GivenServer:
    url = RedisUrl(
        host=str(arguments.get("host") or "localhost"),
        port=int(arguments.get("port") or 6379),
        path=arguments.get("path"),
        tls=is_tls,
        username=arguments.get("username"),
        password=arguments.get("password"),
        database=int(arguments.get("db") or 0),
        tls_options=_tls_options(arguments) if is_tls else (),
        sentinels=sentinels,
    )
    return GivenServer(url, provider=arguments.get("credential_provider"))


def _tls_options(arguments: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    options = {name: str(arguments[name]) for name in TLS_FILES if arguments.get(name)}
    required = arguments.get("ssl_cert_reqs")
    if required is not None:
        options["ssl_cert_reqs"] = str(_REQUIREMENTS.get(required, required))
    if arguments.get("ssl_check_hostname") is False:
        options["ssl_check_hostname"] = "false"
    return tuple(options.items())
