"""Commands as Redis reads them, put together of parts that are packed once.

The call that ends a job has 25 arguments and more, of which 4 differ from job to job. To pack them
all anew takes three times as long.
"""

from __future__ import annotations


def pack_some(*arguments: str | int) -> bytes:
    """Returns arguments as Redis reads them, without the count that goes before all of them."""
    return b"".join([pack_one(each) for each in map(str, arguments)])


def pack_one(argument: str) -> bytes:
    # A text that was made of bytes which are not UTF-8 becomes the same bytes.
    encoded = argument.encode("utf-8", "surrogateescape")
    return b"$%d\r\n%b\r\n" % (len(encoded), encoded)


def pack_head(sha: str, keys: int, arguments: int) -> bytes:
    """Returns the beginning of a script's call, up to the number of its KEYS."""
    return b"*%d\r\n" % (3 + keys + arguments) + pack_some("EVALSHA", sha, keys)
