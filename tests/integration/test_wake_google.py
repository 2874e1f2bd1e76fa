"""Google's identity tokens at the wake server, signed with keys of our own and checked in full."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from convolab_worker import HandlerRegistry, Job, Settings
from convolab_worker.errors import ConfigurationError
from convolab_worker.server.gate import auth
from convolab_worker.server.gate.auth import Certificates, IdentityTokenVerifier, authorization
from tests.support.google import AUDIENCE, EMAIL, Key
from tests.support.serving import serving

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def key() -> Key:
    """The key that plays Google's."""
    return Key("key-1")


@pytest.fixture(scope="module")
def stranger() -> Key:
    """Another key with the same key id."""
    return Key("key-1")


class Issuer:
    """Serves certificates on loopback, and counts who asks."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.status = 200
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        """Give the certificates by key id, to be kept for an hour."""
        self.asked += 1
        text = json.dumps({key.id: key.certificate for key in self.keys})
        headers = {"Cache-Control": "public, max-age=3600, must-revalidate"}
        return web.Response(status=self.status, text=text, headers=headers)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Issuer]:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/certs", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/certs"
        try:
            yield self
        finally:
            await runner.cleanup()


async def test_the_server_takes_a_right_token_and_no_other(
    key: Key,
    stranger: Key,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Audience, e-mail and signature are checked on every call, the certificates fetched once."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[dict[str, Any]]) -> None:
        """Do nothing."""

    async with Issuer(key).serve() as issuer:
        monkeypatch.setattr(auth, "CERTIFICATES_URL", issuer.url)
        settings = make_settings(wake_audience=AUDIENCE, wake_emails=("other@example.com", EMAIL))
        async with serving(handlers, settings) as (_, _, session):
            for token, status in (
                (key.token(), 202),
                (key.token(aud="https://other.example.com"), 401),
                (key.token(email="stranger@example.com"), 401),
                (stranger.token(), 401),
                ("nonsense", 401),
                (key.token(), 202),
            ):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.post("/wake", headers=headers) as answer:
                    assert answer.status == status
        assert issuer.asked == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": None},
        {"aud": [AUDIENCE, "another"]},
        {"iss": "https://accounts.example.com"},
        {"iss": None},
        {"email": None},
        {"email": 7},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"exp": -60},
        {"exp": None},
        {"iat": 600},
    ],
    ids=str,
)
async def test_each_claim_is_checked(key: Key, changes: dict[str, Any]) -> None:
    """A token that is signed well and says the wrong thing, or not enough, is refused."""
    times = {name: time.time() + changes[name] for name in ("exp", "iat") if changes.get(name)}
    changes = {**changes, **{name: int(value) for name, value in times.items()}}
    async with Issuer(key).serve() as issuer:
        verifier = IdentityTokenVerifier(AUDIENCE, [EMAIL], Certificates(issuer.url))

        assert not await verifier.caller(key.token(**changes))
        assert await verifier.caller(key.token(email=EMAIL.upper()))


async def test_a_token_of_brackets_is_401_at_the_server(
    key: Key, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[dict[str, Any]]) -> None:
        """Do nothing."""

    async with Issuer(key).serve() as issuer:
        monkeypatch.setattr(auth, "CERTIFICATES_URL", issuer.url)
        settings = make_settings(wake_audience=AUDIENCE, wake_emails=(EMAIL,))
        async with serving(handlers, settings) as (_, _, session):
            brackets = base64.urlsafe_b64encode(b"[" * 5800).decode()
            headers = {"Authorization": f"Bearer {brackets}.e30.c2ln"}
            async with session.post("/wake", headers=headers) as answer:
                assert answer.status == 401


async def test_unknown_keys_do_not_cause_a_fetch_each(key: Key) -> None:
    """A token names any key it likes: the certificates are fetched at most every half minute."""
    async with Issuer(key).serve() as issuer:
        verifier = IdentityTokenVerifier(AUDIENCE, [EMAIL], Certificates(issuer.url))
        for number in range(20):
            assert not await verifier.caller(key.token(f"unknown-{number}"))

        assert issuer.asked == 1
        assert await verifier.caller(key.token())


async def test_a_new_key_is_fetched(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google changes its keys every few days: an unknown one is looked for."""
    monkeypatch.setattr(auth, "_RETRY_SECONDS", 0.0)
    new = Key("key-2")
    async with Issuer(key).serve() as issuer:
        verifier = IdentityTokenVerifier(AUDIENCE, [EMAIL], Certificates(issuer.url))
        assert not await verifier.caller(new.token())
        issuer.keys.append(new)

        assert await verifier.caller(new.token())
        assert await verifier.caller(key.token())
        assert issuer.asked == 2


async def test_while_google_is_away_known_keys_stay(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old certificates are better than none; without any, nobody is let in."""
    monkeypatch.setattr(auth, "_RETRY_SECONDS", 0.0)
    async with Issuer(key).serve() as issuer:
        issuer.status = 503
        certificates = Certificates(issuer.url)
        verifier = IdentityTokenVerifier(AUDIENCE, [EMAIL], certificates)
        assert not await verifier.caller(key.token())
        issuer.status = 200
        assert await verifier.caller(key.token())
        monkeypatch.setattr(certificates, "_fresh_until", 0.0)  # as when they have grown old
        issuer.status = 503

        assert await verifier.caller(key.token())


async def test_an_audience_without_emails_is_refused() -> None:
    """Google signs a token for any audience for anybody: e-mail addresses are needed too."""
    with pytest.raises(ConfigurationError, match="expected CONVOLAB_WAKE_EMAILS as well"):
        authorization(Settings(wake_audience=AUDIENCE))
