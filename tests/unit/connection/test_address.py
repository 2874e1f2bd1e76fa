"""REDIS_URL: what is read, what is refused at once, and that no password is shown."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from convolab_worker.cli.main import main
from convolab_worker.connection.address import Address, family_of
from convolab_worker.errors import ConfigurationError, RedisUnavailable
from convolab_worker.settings import Settings

SECRET = "hunter2secret"


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
        ("redis://h?username=me&password=pw", Address(host="h", username="me", password="pw")),
        ("redis://h?protocol=3&socket_timeout=5", Address(host="h")),
        ("rediss://h", Address(host="h", tls=True)),
        (
            "rediss://h?ssl_cert_reqs=None&ssl_check_hostname=0",
            Address(
                host="h",
                tls=True,
                tls_options=(("ssl_cert_reqs", "none"), ("ssl_check_hostname", "false")),
            ),
        ),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        ("unix:///run/my%20redis.sock?db=2", Address(path="/run/my redis.sock", database=2)),
        ("unix://me:pw@/run/r.sock", Address(path="/run/r.sock", username="me", password="pw")),
    ],
)
def test_a_url_is_read_as_other_clients_read_it(url: str, expected: Address) -> None:
    """Scheme, host, port, credentials, database and TLS options, in path and query."""
    assert Address.parse(Settings(redis_url=url).redis_url) == expected


@given(username=st.text(min_size=1, max_size=12), password=st.text(min_size=1, max_size=24))
def test_credentials_may_have_any_characters(username: str, password: str) -> None:
    """Percent-encoded, every text is a password, a user's name too."""
    address = Address.parse(f"redis://{quote(username, safe='')}:{quote(password, safe='')}@h:1/2")

    assert (address.username, address.password) == (username, password)
    assert (address.host, address.port, address.database) == ("h", 1, 2)


@pytest.mark.parametrize(
    "password", ["p@ss", "p:ss", "p@s@s:s", "pässwörd", "p%ss", "a+b", "p&s=s;"]
)
def test_marks_that_are_unmistakable_need_no_encoding(password: str) -> None:
    """The last @ ends the credentials, the first colon the user's name."""
    address = Address.parse(f"redis://me:{password}@h")

    assert (address.username, address.password, address.host) == ("me", password, "h")


WRONG = [
    pytest.param("http://h", "starts with redis://, rediss://, unix://, redis+", id="scheme"),
    pytest.param("localhost:6379", "starts with redis://", id="no-scheme"),
    pytest.param(f"me:{SECRET}", "starts with redis://", id="credentials-alone"),
    pytest.param(f"me:{SECRET}@h://x", "starts with redis://", id="credentials-first"),
    pytest.param("redis://h h", "without white space", id="white-space"),
    pytest.param(f"redis://:a {SECRET}@h", "space as %20", id="space-in-password"),
    pytest.param(f"redis://:a\n{SECRET}@h", "without white space", id="line-end-in-password"),
    pytest.param(f"redis://:{SECRET}@h:0", "port from 1 to 65535", id="port-0"),
    pytest.param(f"redis://:{SECRET}@h:65536", "port from 1 to 65535", id="port-too-high"),
    pytest.param(f"redis://:{SECRET}@h:-1", "port from 1 to 65535", id="port-negative"),
    pytest.param(f"redis://:{SECRET}@h:redis", "port from 1 to 65535", id="port-word"),
    pytest.param(f"redis://me:{SECRET}", "[USER:PASSWORD@]HOST[:PORT]", id="no-host"),
    pytest.param(f"redis://:{SECRET}@[::1", "HOST[:PORT]", id="open-bracket"),
    pytest.param(f"redis://:{SECRET}@h/one", "redis://host:6379/0", id="database-word"),
    pytest.param(f"redis://:{SECRET}@h/-1", "redis://host:6379/0", id="database-negative"),
    pytest.param(f"redis://:{SECRET}@h/1/2", "redis://host:6379/0", id="two-databases"),
    pytest.param(f"redis://:{SECRET}@h?db=x", "redis://host:6379/0", id="database-in-query"),
    pytest.param("redis://h/1?db=x", "redis://host:6379/0", id="database-in-path-and-query"),
    pytest.param(f"redis://h/{'9' * 5_000}", "database number", id="database-of-digits"),
    pytest.param(f"redis://:a/{SECRET}@h", "write / as %2F", id="slash-in-password"),
    pytest.param(f"redis://:1/{SECRET}@h", "write / as %2F", id="slash-after-a-number"),
    pytest.param(f"redis://:1?{SECRET}@h", "? as %3F", id="question-mark-in-password"),
    pytest.param(f"redis://:1#{SECRET}@h", "# as %23", id="hash-in-password"),
    pytest.param(f"redis://:[{SECRET}]@h", "[ ] as %5B %5D", id="bracket-in-password"),
    pytest.param(f"redis://h?password=a@{SECRET}", "@ as %40", id="at-in-query"),
    pytest.param("redis://h/0#x", "no #", id="fragment"),
    pytest.param("rediss://h?ssl_cert_reqs=never", "required, optional, none", id="tls-value"),
    pytest.param("rediss://h?ssl_check_hostname=x", "one of true, false", id="tls-switch"),
    pytest.param("rediss://h?ssl_cert_req=none", "ssl_cert_reqs", id="tls-name"),
    pytest.param("rediss://h?ssl_keyfile=/k", "ssl_certfile as well", id="key-without-certificate"),
    pytest.param("redis://h?ssl_cert_reqs=none", "rediss://", id="tls-option-without-tls"),
    pytest.param(f"redis://h?pasword={SECRET}", "password= instead", id="misspelt-option"),
    pytest.param("redis://h?unheard=of", "the options are db, username", id="unknown-option"),
    pytest.param("redis+sentinel://h:1", "HOST[:PORT]/PRIMARY", id="sentinel-without-a-primary"),
    pytest.param(f"redis+sentinel://:{SECRET}@/p", "HOST[:PORT]/PRIMARY", id="no-sentinel"),
    pytest.param("redis+sentinel://h,/p", "HOST[:PORT]/PRIMARY", id="empty-sentinel"),
    pytest.param(f"redis+sentinel://:a/{SECRET}@h/p", "write / as %2F", id="sentinel-slash"),
    pytest.param("redis+sentinel://h/p/x", "database number", id="sentinel-database"),
    pytest.param("redis+sentinel://h/p?sentinel_pasword=x", "sentinel_password=", id="theirs"),
    pytest.param("redis+sentinel://h/p?sentinel_ssl=x", "true, false", id="sentinel-switch"),
    pytest.param("unix://", "unix:///run/redis.sock", id="socket-without-path"),
    pytest.param("unix:///", "unix:///run/redis.sock", id="socket-of-a-slash"),
    pytest.param("unix://run/redis.sock", "absolute path", id="socket-with-two-slashes"),
    pytest.param(f"unix://:1/{SECRET}@/run/r.sock", "write / as %2F", id="socket-password"),
    pytest.param("unix:///run/r.sock?db=x", "database number", id="socket-database"),
]


@pytest.mark.parametrize(("url", "expected"), WRONG)
def test_a_wrong_address_is_refused_where_it_is_given_and_says_what_to_write(
    url: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting, a variable and a flag name what is wrong in the same words, without a secret."""
    told = {}
    for label, refused in (
        ("redis_url", lambda: Settings(redis_url=url)),
        ("REDIS_URL", lambda: Settings.from_env({"REDIS_URL": url})),
        ("REDIS_URL again", lambda: Address.parse(url)),
    ):
        with pytest.raises(ConfigurationError) as caught:
            refused()
        told[label] = str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    code = main(["status", f"--redis-url={url}"])
    told["--redis-url"] = capsys.readouterr().err

    assert code == 2
    for label, message in told.items():
        assert label.split()[0] in message
        assert ": expected " in message
        assert expected in message
        assert SECRET not in message


@given(st.text(max_size=60).map(lambda text: f"redis://{text}") | st.text(max_size=60))
def test_what_the_settings_take_is_an_address_and_never_fails_later(url: str) -> None:
    """Nothing but a ConfigurationError is raised, whatever stands in the variable."""
    try:
        settings = Settings(redis_url=url)
    except ConfigurationError:
        return

    assert 1 <= Address.parse(settings.redis_url).port <= 65_535


@pytest.mark.parametrize(
    ("url", "nodes", "more"),
    [
        pytest.param(
            "redis+sentinel://me:pw@a,b:5000,[::1]:6/the-primary/3",
            (("a", 26379), ("b", 5000), ("::1", 6)),
            {"username": "me", "password": "pw", "database": 3, "tls": False},
            id="all",
        ),
        pytest.param(
            "rediss+sentinel://a/p?ssl_cert_reqs=none",
            (("a", 26379),),
            {"tls": True, "tls_options": (("ssl_cert_reqs", "none"),)},
            id="tls",
        ),
    ],
)
def test_sentinels_are_read_with_their_primary(
    url: str, nodes: tuple[tuple[str, int], ...], more: dict[str, object]
) -> None:
    """Credentials and database are the primary's."""
    address = Address.parse(url)

    assert address.sentinels is not None
    assert address.sentinels.nodes == nodes
    assert address.sentinels.tls == address.tls
    assert {name: getattr(address, name) for name in more} == more


def test_sentinels_may_have_a_password_of_their_own_and_no_tls() -> None:
    """Their options begin with sentinel_."""
    address = Address.parse(
        f"rediss+sentinel://:pw@a/p?sentinel_username=u&sentinel_password={SECRET}&sentinel_ssl=no"
    )

    known = address.sentinels
    assert known is not None
    assert (known.username, known.password, known.tls) == ("u", SECRET, False)
    assert (address.tls, address.password) == (True, "pw")
    assert SECRET not in repr(address)


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


def test_a_certificate_that_is_not_there_is_named() -> None:
    """Its file is looked for at the first connection, and the error says which it is."""
    address = Address.parse("rediss://h?ssl_ca_certs=/no/such/ca.pem")

    with pytest.raises(RedisUnavailable, match=r"ssl_ca_certs=/no/such/ca\.pem.*No such file"):
        address.ssl_context()


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("fe80::1%eth0", socket.AF_INET6),
        ("localhost", None),
        ("127.1", None),
        ("010.0.0.1", None),
        ("1.2.3.4.5", None),
        ("", None),
        ("a\0b", None),
        ("größe.example", None),
    ],
)
def test_a_number_is_no_name(host: str, family: socket.AddressFamily | None) -> None:
    """Nobody has to look it up, and no certificate is for it."""
    assert family_of(host) == family
