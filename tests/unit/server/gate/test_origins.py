"""Requests that a web page of somebody else has sent."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from convolab_worker.server.gate.origins import foreign_header, is_loopback


def headers(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:8080",
        "localhost:x",
    ],
)
def test_names_of_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "attacker.example",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "127.1",
        "0.0.0.0",  # noqa: S104 - a name that is asked for
        "[::1",
        "attacker.example@localhost.",
        "169.254.169.254",
        "2130706433",
    ],
)
def test_other_names(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("lines", "local", "elsewhere"),
    [
        ([("Host", "localhost:80")], None, None),
        ([], None, None),
        ([("Host", "attacker.example")], "Host", None),
        ([("Host", "localhost"), ("Host", "attacker.example")], "Host", None),
        ([("Host", "localhost"), ("Origin", "http://localhost")], None, None),
        ([("Host", "localhost"), ("Origin", "http://localhost:3000")], "Origin", "Origin"),
        ([("Host", "localhost"), ("Origin", "null")], "Origin", "Origin"),
        ([("Host", "localhost"), ("Origin", "file://localhost")], "Origin", "Origin"),
        ([("Host", "localhost"), ("Sec-Fetch-Site", "none")], None, None),
        (
            [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")],
            "Sec-Fetch-Site",
            "Sec-Fetch-Site",
        ),
        (
            [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "same-site")],
            "Sec-Fetch-Site",
            "Sec-Fetch-Site",
        ),
        (  # a proxy has changed the name
            [
                ("Host", "worker.internal"),
                ("Origin", "https://worker.example.com"),
                ("Sec-Fetch-Site", "same-origin"),
            ],
            "Host",
            None,
        ),
    ],
)
def test_the_header_that_shows_a_foreign_page(
    lines: list[tuple[str, str]], local: str | None, elsewhere: str | None
) -> None:
    assert foreign_header(headers(*lines), is_local=True) == local
    assert foreign_header(headers(*lines), is_local=False) == elsewhere
