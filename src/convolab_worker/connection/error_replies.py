"""What Redis's refusals mean, and what mends them: pure, from the error's first word."""

from __future__ import annotations

# Redis error prefix -> what is wrong and what to do about it, in an operator's words.
_MEANINGS: tuple[tuple[str, str], ...] = (
    ("WRONGPASS", "the user or password in REDIS_URL is wrong: correct it"),
    ("NOAUTH", "the server wants a password: put it into REDIS_URL (redis://:PASSWORD@host)"),
    ("NOPERM", "the user in REDIS_URL lacks a permission: grant what the message names"),
    ("ERR ACL failure", "the user in REDIS_URL lacks a permission: grant what the message names"),
    ("LOADING", "the server is loading its data: it will serve when it is done"),
    ("READONLY", "this is a replica: point REDIS_URL at the primary"),
    ("UNBLOCKED force", "the server has become a replica: point REDIS_URL at the primary"),
    ("MASTERDOWN", "the replica has lost its primary: point REDIS_URL at the primary"),
    ("CLUSTERDOWN", "the cluster has slots without a node: mend the cluster"),
    ("MOVED", "a cluster's nodes disagree, or CONVOLAB_PREFIX has no hash tag, such as {bull}"),
    ("ASK", "the cluster is moving the keys to another node: it will serve when it is done"),
    ("TRYAGAIN", "the cluster is moving the keys to another node: it will serve when it is done"),
    ("CROSSSLOT", "this is a cluster: use a hash tag in CONVOLAB_PREFIX, such as {bull}"),
    ("OOM", "the server's memory is full: raise maxmemory or remove data"),
    ("MISCONF", "the server can't save to disk and refuses writes: look at its log and disk"),
    ("BUSY ", "a script is running too long on the server: SCRIPT KILL ends it"),
    ("WRONGTYPE", "a key of this queue has another type than BullMQ's: is it another program's?"),
    ("NOREPLICAS", "the server wants replicas that are not there: mend the replication"),
    ("ERR max requests limit exceeded", "the provider's quota is spent: raise it, or wait"),
    ("ERR max daily request limit exceeded", "the day's quota is spent: raise it, or wait"),
    ("ERR max number of clients", "the server has too many clients: raise maxclients"),
    ("ERR invalid password", "the password in REDIS_URL is wrong: correct it"),
    ("ERR unknown command", "the server is too old, or no Redis: 6.2 or later is needed"),
    ("ERR unknown", "the server is too old, or no Redis: 6.2 or later is needed"),
)


def meaning(error: str) -> str | None:
    """What ``error`` (a reply's text) means and what mends it, or None where it is not known."""
    for prefix, text in _MEANINGS:
        # Redis 6 wraps what a script ran into: "ERR Error running script ...: -OOM command ...".
        if error.startswith(prefix) or f" {prefix} " in error or f" -{prefix} " in error:
            return text
    return None


def explain(error: str, where: str) -> str:
    """One sentence for an operator: the refusal of Redis at ``where``, and what mends it."""
    known = meaning(error)
    return f"Redis at {where} refuses: {error}" + (f" -- {known}" if known else "")
