"""Address: what of a REDIS_URL is read, what is refused, and that no password is shown."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from convolab_worker.connection.address import Address
from convolab_worker.errors import ConfigurationError

SECRET = "hunter2secret"


def parsed_or_refused(url: str) -> Address | ConfigurationError:
    """The address, or the error that is raised in its stead."""
    try:
        return Address.parse(url)
    except ConfigurationError as error:
        return error


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address()),
        ("redis://localhost", Address()),
        ("redis://db.example:7000", Address(host="db.example", port=7000)),
        ("REDIS://db.example", Address(host="db.example")),
        ("redis://[::1]:7000", Address(host="::1", port=7000)),
        ("redis://h/3", Address(host="h", database=3)),
        ("redis://h/3/", Address(host="h", database=3)),
        ("redis://h?db=3", Address(host="h", database=3)),
        ("redis://h/2?db=3", Address(host="h", database=3)),
        ("redis://h/", Address(host="h")),
        ("redis://:pw@h", Address(host="h", password="pw")),
        ("redis://me:pw@h", Address(host="h", username="me", password="pw")),
        ("redis://me@h", Address(host="h", username="me")),
        ("redis://h?password=pw", Address(host="h", password="pw")),
        ("redis://h?protocol=3&unheard=of", Address(host="h")),
        ("rediss://h", Address(host="h", tls=True)),
        (
            "rediss://h?ssl_cert_reqs=none",
            Address(host="h", tls=True, tls_options=(("ssl_cert_reqs", "none"),)),
        ),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        ("unix:///run/my%20redis.sock?db=2", Address(path="/run/my redis.sock", database=2)),
        ("unix://me:pw@/run/r.sock", Address(path="/run/r.sock", username="me", password="pw")),
    ],
)
def test_a_url_is_read_as_other_clients_read_it(url: str, expected: Address) -> None:
    """Scheme, host, port, credentials, database and TLS options, in path and query."""
    assert Address.parse(url) == expected


@given(username=st.text(min_size=1, max_size=12), password=st.text(min_size=1, max_size=24))
def test_credentials_may_have_any_characters(username: str, password: str) -> None:
    """Percent-encoded, every text is a password, a user's name too."""
    address = Address.parse(f"redis://{quote(username, safe='')}:{quote(password, safe='')}@h:1/2")

    assert (address.username, address.password) == (username, password)
    assert (address.host, address.port, address.database) == ("h", 1, 2)


@pytest.mark.parametrize(
    "password", ["p@ss", "p:ss", "p@s@s:s", "pa ss", "pässwörd", "p%ss", "a+b", "p&s=s;"]
)
def test_marks_that_are_unmistakable_need_no_encoding(password: str) -> None:
    """The last @ ends the credentials, the first colon the user's name."""
    address = Address.parse(f"redis://me:{password}@h")

    assert (address.username, address.password, address.host) == ("me", password, "h")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://h", "got http://", id="scheme"),
        pytest.param("localhost:6379", "without a scheme", id="no-scheme"),
        pytest.param("", "without a scheme", id="empty"),
        pytest.param(f"me:{SECRET}@h://x", "without a scheme", id="credentials-first"),
        pytest.param(f"redis://:{SECRET}@h:0", "port from 1 to 65535", id="port-0"),
        pytest.param(f"redis://:{SECRET}@h:65536", "port from 1 to 65535", id="port-too-high"),
        pytest.param(f"redis://:{SECRET}@h:-1", "port from 1 to 65535", id="port-negative"),
        pytest.param(f"redis://:{SECRET}@h:redis", "port from 1 to 65535", id="port-word"),
        pytest.param(f"redis://:{SECRET}@[::1", "HOST:PORT", id="open-bracket"),
        pytest.param(f"redis://:{SECRET}@h/one", "database number", id="database-word"),
        pytest.param(f"redis://:{SECRET}@h/-1", "database number", id="database-negative"),
        pytest.param(f"redis://:{SECRET}@h?db=x", "database number", id="database-in-query"),
        pytest.param(f"redis://h/{'9' * 5_000}", "database number", id="database-of-digits"),
        pytest.param(f"redis://:a/{SECRET}@h", "percent-encoded", id="slash-in-password"),
        pytest.param(f"redis://:1/{SECRET}@h", "percent-encoded", id="slash-after-a-number"),
        pytest.param(f"redis://:1?{SECRET}@h", "percent-encoded", id="question-mark-in-password"),
        pytest.param(f"redis://:1#{SECRET}@h", "percent-encoded", id="hash-in-password"),
        pytest.param(f"redis://:[{SECRET}]@h", "percent-encoded", id="bracket-in-password"),
        pytest.param("unix://", "absolute path", id="socket-without-path"),
        pytest.param("unix://run/redis.sock", "absolute path", id="socket-with-two-slashes"),
    ],
)
def test_a_url_that_can_not_be_is_refused_without_its_password(url: str, expected: str) -> None:
    """The message says what was expected, and repeats nothing that may be secret."""
    with pytest.raises(ConfigurationError, match=expected) as caught:
        Address.parse(url)

    assert str(caught.value).startswith("REDIS_URL: ")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text(max_size=60).map(lambda text: f"redis://{text}") | st.text(max_size=60))
def test_any_text_is_an_address_or_a_configuration_error(url: str) -> None:
    """Nothing else is raised, whatever stands in the variable."""
    outcome = parsed_or_refused(url)

    if isinstance(outcome, Address):
        assert 1 <= outcome.port <= 65_535
    else:
        assert str(outcome).startswith("REDIS_URL: ")


@pytest.mark.parametrize("url", [f"redis://me:{SECRET}@h:7000/1", f"unix://:{SECRET}@/run/r.sock"])
def test_an_address_is_shown_without_its_password(url: str) -> None:
    """Neither repr nor str has it; str has no credentials at all."""
    address = Address.parse(url)

    assert SECRET not in repr(address)
    assert str(address) in {"h:7000", "/run/r.sock"}


def test_a_plain_connection_has_no_tls() -> None:
    """redis:// and unix:// are not encrypted."""
    assert Address.parse("redis://h").ssl_context() is None
    assert Address.parse("unix:///s").ssl_context() is None


@pytest.mark.parametrize(
    ("query", "verify", "names"),
    [
        pytest.param("", ssl.CERT_REQUIRED, True, id="default"),
        pytest.param("?ssl_cert_reqs=required", ssl.CERT_REQUIRED, True, id="required"),
        pytest.param("?ssl_cert_reqs=none", ssl.CERT_NONE, False, id="none"),
        pytest.param("?ssl_check_hostname=false", ssl.CERT_REQUIRED, False, id="any-name"),
        pytest.param("?ssl_check_hostname=False", ssl.CERT_REQUIRED, False, id="any-name-python"),
    ],
)
def test_certificates_are_checked_unless_the_url_says_no(
    query: str,
    verify: ssl.VerifyMode,
    names: bool,  # noqa: FBT001
) -> None:
    """TLS is verified by default, and each check can be switched off by name."""
    context = Address.parse(f"rediss://h{query}").ssl_context()

    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (verify, names)
