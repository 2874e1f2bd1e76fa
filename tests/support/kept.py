"""What this process keeps in memory, whoever keeps it."""

from __future__ import annotations

import gc


def kept(marker: str, *, longer_than: int = 0) -> int:
    """How many texts, as str or bytes, contain ``marker`` and are reachable; none of them twice.

    Texts that are not ``longer_than`` so many characters are passed over, such as the marker
    itself in the test's own hands.
    """
    gc.collect()
    raw = marker.encode()
    seen: set[int] = set()
    found = 0
    reached = gc.get_objects()
    while reached:
        for part in gc.get_referents(reached.pop()):
            if isinstance(part, (str, bytes)):
                if len(part) > longer_than and id(part) not in seen:
                    seen.add(id(part))
                    found += marker in part if isinstance(part, str) else raw in part
            elif isinstance(part, (dict, tuple)) and not gc.is_tracked(part):
                reached.append(part)  # of plain values alone, and so not among the objects above
    return found
