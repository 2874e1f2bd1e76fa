"""The count of commands: what a line of MONITOR means, and what is on the bill."""

from __future__ import annotations

from examples.benchmarks.benchkit.monitor import SeenCommand, count, parse

_WORKER = "127.0.0.1:40100"
_BENCHMARK = "127.0.0.1:40200"


def _seen(name: str, *, client: str = _WORKER, scripted: bool = False) -> SeenCommand:
    return SeenCommand(at=1.0, client=client, name=name, scripted=scripted)


def test_a_clients_command_is_read_with_its_time_address_and_name() -> None:
    """A line of a client gives its moment, its address and the name in lower case."""
    line = b'+1795447748.469192 [0 127.0.0.1:40100] "BZPOPMIN" "bull:q:marker" "5"\r\n'

    seen = parse(line, "")

    assert seen == SeenCommand(
        at=1795447748.469192,
        client=_WORKER,
        name="bzpopmin",
        scripted=False,
        argument="bull:q:marker",
    )


def test_a_command_in_a_script_belongs_to_the_client_that_ran_the_script() -> None:
    """A line of Lua has no address of its own, and takes that of the line before it."""
    line = b'+1795447747.964871 [0 lua] "hmget" "bull:q:meta" "paused"\r\n'

    seen = parse(line, _WORKER)

    assert seen is not None
    assert (seen.client, seen.scripted, seen.name) == (_WORKER, True, "hmget")


def test_a_container_command_is_named_with_its_subcommand() -> None:
    """CLIENT SETINFO and SCRIPT LOAD are told from their siblings."""
    line = b'+1795447747.964197 [0 127.0.0.1:40100] "CLIENT" "SETINFO" "LIB-NAME" "x"\r\n'

    seen = parse(line, "")

    assert seen is not None
    assert seen.name == "client|setinfo"


def test_an_address_of_a_unix_socket_or_of_ipv6_is_read() -> None:
    """An address may hold slashes or brackets."""
    unix = parse(b'+1.5 [0 unix:/run/valkey.sock] "GET" "k"\r\n', "")
    ipv6 = parse(b'+1.5 [0 [::1]:40100] "GET" "k"\r\n', "")

    assert unix is not None
    assert ipv6 is not None
    assert (unix.client, ipv6.client) == ("unix:/run/valkey.sock", "[::1]:40100")


def test_a_line_that_is_no_command_is_nothing() -> None:
    """The OK with which MONITOR starts is not a command."""
    assert parse(b"+OK\r\n", "") is None


def test_sent_and_scripted_commands_are_counted_apart_and_billed_together() -> None:
    """The bill is what was sent, and what ran inside scripts."""
    commands = [_seen("evalsha"), _seen("hmget", scripted=True), _seen("hmget", scripted=True)]

    counted = count(commands, ignore=frozenset())

    assert counted.sent == {"evalsha": 1}
    assert counted.scripted == {"hmget": 2}
    assert (counted.client_sent, counted.billable) == (1, 3)


def test_the_benchmarks_own_connections_are_not_counted() -> None:
    """What an ignored client sent, and what its scripts ran, is left out."""
    commands = [
        _seen("evalsha", client=_BENCHMARK),
        _seen("zadd", client=_BENCHMARK, scripted=True),
        _seen("bzpopmin"),
    ]

    counted = count(commands, ignore=frozenset({_BENCHMARK}))

    assert (counted.client_sent, counted.billable) == (1, 1)


def test_what_a_provider_gives_for_free_is_not_counted() -> None:
    """AUTH, PING, INFO, QUIT and COMMAND with its subcommands are on no bill."""
    commands = [_seen(name) for name in ("auth", "ping", "info", "quit", "command|docs", "get")]

    counted = count(commands, ignore=frozenset())

    assert counted.sent == {"get": 1}
