"""What Redis's error replies mean, and what an operator can do about them: pure."""

from __future__ import annotations

_LOOKING = (
    "after a failover the address is asked again until it leads to the new primary; if it never "
    "will, point REDIS_URL at the primary"
)
_UNKNOWN_USER = (
    "the user or password in REDIS_URL is wrong: correct it; one that changes is read anew from "
    "CONVOLAB_REDIS_PASSWORD_FILE"
)
_NO_NODE = (
    "the cluster has slots without a node: it is asked again until it has; repair the cluster if "
    "it does not repair itself"
)
# The start of an error reply; then, for an operator, what is wrong and what to do about it.
_MEANINGS: tuple[tuple[str, str], ...] = (
    ("WRONGPASS", _UNKNOWN_USER),
    ("NOAUTH", "the server wants a password: put it into REDIS_URL (redis://:PASSWORD@host)"),
    ("NOPERM", "the user in REDIS_URL lacks a permission: grant what the message names"),
    ("ERR ACL failure", "the user in REDIS_URL lacks a permission: grant what the message names"),
    ("LOADING", "the server is loading its data: it answers when it has loaded them"),
    ("READONLY", f"this is a replica: {_LOOKING}"),
    ("UNBLOCKED force", f"the server has become a replica: {_LOOKING}"),
    ("MASTERDOWN", f"the replica has lost its primary: {_LOOKING}"),
    ("CLUSTERDOWN", _NO_NODE),
    ("MOVED", "a cluster's nodes disagree, or CONVOLAB_PREFIX has no hash tag, such as {bull}"),
    ("ASK", "the cluster is moving the keys to another node: it answers once they are there"),
    ("TRYAGAIN", "the cluster is moving the keys to another node: it answers once they are there"),
    ("CROSSSLOT", "this is a cluster: use a hash tag in CONVOLAB_PREFIX, such as {bull}"),
    ("OOM", "the server's memory is full: raise maxmemory or remove data"),
    ("MISCONF", "the server can't save to disk and refuses writes: check its log and its disk"),
    ("BUSY ", "a script is running too long on the server: SCRIPT KILL ends it"),
    ("WRONGTYPE", "a key of this queue has another type than BullMQ's: is it another program's?"),
    ("NOREPLICAS", "the server wants replicas that are not there: repair the replication"),
    ("ERR max requests limit exceeded", "the provider's quota is spent: raise it, or wait"),
    ("ERR max daily request limit exceeded", "the day's quota is spent: raise it, or wait"),
    ("ERR max number of clients", "the server has too many clients: raise maxclients"),
    ("ERR invalid password", "the password in REDIS_URL is wrong: correct it"),
    ("ERR unknown command", "the server is too old, or no Redis: 6.2 or later is needed"),
    ("ERR unknown", "the server is too old, or no Redis: 6.2 or later is needed"),
)


def meaning(error: str) -> str | None:
    """Return what an error reply means and what to do about it, None where that is not known."""
    for prefix, text in _MEANINGS:
        if _says(error, prefix):
            return text
    return None


# What a server says that can't serve now, and may never again: it was demoted, has lost its primary
# or its slots, is loading its data, or no longer knows who we are.
_CANNOT_SERVE = ("READONLY", "UNBLOCKED force", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "NOAUTH")


def cannot_serve(error: str) -> bool:
    """Return whether a server says that it can't serve, though another one at the address may."""
    return any(_says(error, prefix) for prefix in _CANNOT_SERVE)


def _says(error: str, prefix: str) -> bool:
    # Redis 6 wraps the error of a command inside a script: "ERR Error running script ...: -OOM
    # command ...".
    return error.startswith(prefix) or f" {prefix} " in error or f" -{prefix} " in error


def is_about_data(error: str) -> bool:
    """Return whether an error is about what certain keys hold, and not about the server."""
    return is_of_another_type(error) or meaning(error) is None


def is_of_another_type(error: str) -> bool:
    """Return whether a command failed since a key had another type than BullMQ gives it."""
    return "WRONGTYPE" in error


def is_about_size(error: str) -> bool:
    """Return whether a command was refused for its size, which some providers limit."""
    return "max request size exceeded" in error or "max single record size exceeded" in error


def explain(error: str, where: str) -> str:
    """Return one sentence for an operator: what Redis at ``where`` refuses, and what to do."""
    known = meaning(error)
    return f"Redis at {where} refuses: {error}" + (f" -- {known}" if known else "")
