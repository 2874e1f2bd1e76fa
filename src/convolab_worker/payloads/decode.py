"""Reads the JSON text of a job's data as Node's ``JSON.parse`` reads it."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from convolab_worker.errors import InvalidPayload
from convolab_worker.payloads.validation.problems import printable, quote

_EXCERPT = 20
"""How many characters before and after an error its message shows."""


class _NotANumberError(ValueError):
    """The text has NaN or Infinity, which Python's json accepts and JSON.parse does not."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumberError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_data(text: str | bytes) -> Any:
    """Return the value that the JSON text of a job's data means.

    It differs from ``JSON.parse`` in one way: an integer of any size stays exact. Raises
    InvalidPayload, with the position and an excerpt, for text that is not JSON, for text that
    nests too deeply, and for bytes that are not UTF-8.
    """
    document = ""
    try:
        document = text.decode() if isinstance(text, bytes) else text
        return _decoder.decode(document)
    except UnicodeDecodeError as error:
        near = error.object[max(error.start - _EXCERPT, 0) : error.start + _EXCERPT]
        what = f"{error.reason} at byte {error.start}, near {near!r}"
        msg = f"data: expected UTF-8, got {what}"
        raise InvalidPayload(msg) from None
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, error.doc, error.pos) from None
    except _NotANumberError as error:
        problem = f"{error} is not a number in JSON"
        raise _not_json(problem, document, _first_constant(document)) from None
    except RecursionError:
        msg = "data: nested too deeply"
    except ValueError:
        msg = "data: expected JSON, got a number of thousands of digits"
    raise InvalidPayload(msg) from None


def _not_json(problem: str, document: str, position: int) -> InvalidPayload:
    near = quote(document[max(position - _EXCERPT, 0) : position + _EXCERPT])
    msg = f"data: expected JSON, got: {problem} at position {position}, near {near}"
    return InvalidPayload(printable(msg))


def _first_constant(document: str) -> int:
    """Return where the first NaN or Infinity stands outside text; all before it is JSON."""
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', document):
        if match[1]:
            return match.start()
    return 0
