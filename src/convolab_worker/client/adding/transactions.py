"""Adds jobs when a surrounding transaction of Django or SQLAlchemy commits, importing neither.

A library that the application has not imported has no transaction. Of Django's transactions it is
Django that knows which one surrounds a call. SQLAlchemy does not, so that its sessions are heeded
from the moment that a client is made.

What a pending job depends on are the transactions that were open when it was enqueued, the
innermost first; a savepoint that is released no longer counts:

    pending   -- the last of them commits -->                 added
    pending   -- one of them ends without a commit -->        forgotten
"""

from __future__ import annotations

import sys
import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_PENDING = "convolab_worker.pending"
# The sessions that have begun in this thread or task, the last one last.
_begun: ContextVar[tuple[weakref.ref[Any], ...]] = ContextVar("convolab_sessions", default=())
_heeded: set[str] = set()


def after_commit(surrounding: Any, add: Callable[[], object]) -> bool:
    """Have ``add`` called when the transaction commits; False if it is to be called at once.

    ``surrounding`` is True, or a session of SQLAlchemy. Raises ConfigurationError where it can't be
    told which transaction is meant.
    """
    if surrounding is not True:
        heed_sessions()
        _pend(_plain(surrounding), add)
        return True
    django = _django()
    if django is not None and _in_django(django, add):
        return True
    was_heeded = "sqlalchemy.orm" in _heeded
    if heed_sessions():
        session = _current() if was_heeded else None
        if session is not None:
            _pend(session, add)
            return True
    if django is not None:  # outside of a transaction it does the same
        return False
    if "sqlalchemy.orm" in sys.modules:
        msg = "on_commit=True: no session has begun here: expected on_commit=SESSION"
    else:
        msg = "on_commit=True: expected a program that uses Django or SQLAlchemy"
    raise ConfigurationError(msg)


# Django


def _django() -> Any:
    module, conf = sys.modules.get("django.db.transaction"), sys.modules.get("django.conf")
    return module if module is not None and conf is not None and conf.settings.configured else None


def _in_django(transaction: Any, add: Callable[[], object]) -> bool:
    for connection in sys.modules["django.db"].connections.all(initialized_only=True):
        if connection.in_atomic_block:
            transaction.on_commit(add, using=connection.alias)
            return True
    return False


# SQLAlchemy


@dataclass(slots=True)
class _Pending:
    add: Callable[[], object]
    transactions: list[Any]  # none for one that waits for the session to begin
    is_committed: bool = False


def heed_sessions() -> bool:
    """Listen to SQLAlchemy's sessions, if the application has it; return whether that is so."""
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is None:
        return False
    if "sqlalchemy.orm" not in _heeded:
        _heeded.add("sqlalchemy.orm")
        listen = sys.modules["sqlalchemy.event"].listen
        listen(orm.Session, "after_transaction_create", _on_begin)
        listen(orm.Session, "after_commit", _on_commit)
        listen(orm.Session, "after_transaction_end", _on_end)
    return True


def _plain(session: Any) -> Any:
    """Return the Session that an AsyncSession or a scoped_session stands for."""
    if hasattr(session, "sync_session"):
        session = session.sync_session
    elif hasattr(session, "registry"):
        session = session()
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is None or not isinstance(session, orm.Session):
        msg = f"on_commit={session!r}: expected True, or a session of SQLAlchemy"
        raise ConfigurationError(msg)
    return session


def _on_begin(session: Any, transaction: Any) -> None:
    if transaction.parent is None:
        begun = [known for known in _begun.get() if known() not in (None, session)]
        _begun.set((*begun, weakref.ref(session)))
        for pending in session.info.get(_PENDING, ()):
            pending.transactions = pending.transactions or [transaction]


def _current() -> Any:
    """Return the session that has begun here last, and has not ended."""
    for known in reversed(_begun.get()):
        session = known()
        if session is not None and session.in_transaction():
            return session
    return None


def _pend(session: Any, add: Callable[[], object]) -> None:
    transaction, chain = session.get_nested_transaction() or session.get_transaction(), []
    while transaction is not None:
        if transaction.nested or transaction.parent is None:  # a flush has one of its own
            chain.append(transaction)
        transaction = transaction.parent
    session.info.setdefault(_PENDING, []).append(_Pending(add, chain))


def _on_commit(session: Any) -> None:
    savepoint = session.get_nested_transaction()
    ended = session.get_transaction() if savepoint is None else savepoint
    for pending in session.info.get(_PENDING, ()):
        pending.is_committed = pending.transactions == [ended]
        pending.transactions = [each for each in pending.transactions if each is not ended]


def _on_end(session: Any, transaction: Any) -> None:
    """Add what was committed: only now is the session ready for the next transaction."""
    pending: list[_Pending] = session.info.get(_PENDING, [])
    if not pending:
        return
    session.info[_PENDING] = [
        each
        for each in pending
        if not each.is_committed and all(known is not transaction for known in each.transactions)
    ]
    failed: list[Exception] = []
    for each in pending:
        if each.is_committed:
            try:
                each.add()
            except Exception as error:  # noqa: BLE001 - the others are added first
                failed.append(error)
    if failed:
        raise failed[0]
