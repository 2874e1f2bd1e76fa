"""Identity tokens of every kind of JSON, and of none."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from convolab_worker.server.gate.auth import Certificates, IdentityTokenVerifier
from tests.support.google import AUDIENCE, EMAIL, Key

FUZZ = hypothesis_settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def key() -> Key:
    """The key that plays Google's."""
    return Key("key-1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NESTED = st.integers(1, 2900).map(lambda depth: "[" * depth + "]" * depth)
CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "aud", "email", "email_verified", "iat", "exp"]), JSON
)
SEGMENTS = st.one_of(
    JSON.map(json.dumps),
    st.fixed_dictionaries({"kid": st.just("key-1") | JSON, "alg": JSON}).map(json.dumps),
    NESTED,
    NESTED.map(lambda text: '{"kid": "key-1", "alg": ' + text + "}"),
    st.text(max_size=40),
).map(lambda text: base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode())


class Kept(Certificates):
    """Certificates that are there, without a request."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self._kept = {key.id: key.certificate}

    async def containing(self, key_id: str) -> Mapping[str, str]:  # noqa: ARG002
        return self._kept


@pytest.fixture(scope="module")
def checks(key: Key) -> Callable[[str], bool]:
    """A verifier that has its certificates, to be asked many times."""
    verifier = IdentityTokenVerifier(AUDIENCE, [EMAIL], Kept(key))
    return lambda token: asyncio.run(verifier.caller(token)) is not None


@FUZZ
@given(segments=st.lists(SEGMENTS | st.text(max_size=30), min_size=1, max_size=4))
def test_no_token_whatever_it_is_made_of_is_an_error(
    checks: Callable[[str], bool], segments: list[str]
) -> None:
    """Odd JSON, thousands of brackets, no JSON, no base64: refused."""
    assert checks(".".join(segments)) is False


@FUZZ
@given(changes=CLAIMS)
def test_no_claim_whatever_it_is_is_an_error(
    checks: Callable[[str], bool], key: Key, changes: dict[str, Any]
) -> None:
    """A token that is signed well with odd claims; it passes only if they are still right."""
    right = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": EMAIL}
    is_right = all(changes.get(name, value) == value for name, value in right.items())

    accepted = checks(key.token(**changes))

    assert not accepted or is_right
