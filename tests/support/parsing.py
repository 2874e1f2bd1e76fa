"""Lets a failure be told where Python 3.11 before 3.11.8 would say SystemError instead.

``ast.parse`` of these versions, and of 3.12 before 3.12.2, may not run within itself
(https://github.com/python/cpython/issues/106905). It does when the garbage collector runs in it,
and finds a future whose exception nobody retrieved: that is logged with its traceback, for which
Python parses the line. pytest parses the file of each test that fails, and after the SystemError it
tells of none.
"""

from __future__ import annotations

import ast
import functools
import gc
import sys
from typing import Any

_HAS_THE_FAULT = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)
_parse = ast.parse


@functools.wraps(_parse)
def _parse_undisturbed(*args: Any, **options: Any) -> Any:
    """Parse, and collect no garbage meanwhile."""
    if not gc.isenabled():
        return _parse(*args, **options)
    gc.disable()
    try:
        return _parse(*args, **options)
    finally:
        gc.enable()


def parse_undisturbed() -> None:
    """Replace ``ast.parse`` of this process by one in which no garbage is collected."""
    if _HAS_THE_FAULT:
        ast.parse = _parse_undisturbed
