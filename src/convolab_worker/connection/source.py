"""Where a server's address and credentials come from, asked anew at each connect."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from convolab_worker.connection.address import Address
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.sentinel import Primary
    from convolab_worker.settings import Settings
    from convolab_worker.settings.redis_clients import CredentialProvider


class ServerSource(Struct, frozen=True):
    """An address, and where the parts of it that change come from.

    Sentinels say where the primary is; credentials come from a ``password_file``, or from a
    ``provider`` as redis-py has them.
    """

    address: Address
    password_file: str | None = None
    provider: CredentialProvider | None = None

    @classmethod
    def of(cls, settings: Settings) -> ServerSource:
        """Return the source that the settings describe. Raises ConfigurationError."""
        given, file = settings.redis_given, settings.redis_password_file
        if given is None:
            return cls(Address.parse(settings.redis_url), file)
        return cls(Address(**given.url), file, None if file else given.provider)

    def __str__(self) -> str:
        """Where the server is, without credentials."""
        return str(self.address)

    @property
    def changes_credentials(self) -> bool:
        return self.password_file is not None or self.provider is not None

    async def primary(self, known: Primary | None = None) -> Primary | None:
        """Return where the Sentinels say that the primary is; None where there are none.

        ``known`` is the primary that was named last. Raises RedisUnavailable if no Sentinel knows
        it.
        """
        sentinels = self.address.sentinels
        if sentinels is None:
            return None
        from convolab_worker.connection.sentinel import primary_of  # few have Sentinels

        return await primary_of(self.address, sentinels, known)

    async def with_credentials(self) -> Address:
        """Return the address as it is configured, with the current credentials.

        Raises RedisUnavailable for a file or a provider that gives no password.
        """
        if self.password_file is not None:
            return replace(self.address, password=_read_password(self.password_file))
        if self.provider is not None:
            username, password = await _ask(self.provider)
            return replace(self.address, username=username, password=password)
        return self.address


def _read_password(file: str) -> str:
    """Return the text of the file without the line ends behind it."""
    try:
        from pathlib import Path

        password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"CONVOLAB_REDIS_PASSWORD_FILE={file} can't be read: {reason}"
        raise RedisUnavailable(msg) from error
    if not password:
        msg = f"CONVOLAB_REDIS_PASSWORD_FILE={file} is empty: expected the password in it"
        raise RedisUnavailable(msg)
    return password


async def _ask(provider: CredentialProvider) -> tuple[str | None, str]:
    """Return the current user and password; a provider that blocks is asked in a thread."""
    from redis.credentials import CredentialProvider as Base  # noqa: TID251 - its user has it loaded

    kind = type(provider)
    is_async = getattr(kind, "get_credentials_async", None) not in {
        None,
        Base.get_credentials_async,
    }
    try:
        if is_async:
            given = await provider.get_credentials_async()
        else:
            given = await asyncio.to_thread(provider.get_credentials)
    except Exception as error:  # the application's code, which asks a service
        msg = f"the credential provider {kind.__name__} gives no credentials: {error!r}"
        raise RedisUnavailable(msg) from error
    return (None, given[0]) if len(given) == 1 else (given[0], given[1])
