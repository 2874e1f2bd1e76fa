"""What of a signature is right, and that nothing else passes, whatever is sent."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from convolab_worker.server.gate.signatures import (
    SignatureProblem,
    SignatureVerifier,
    SignedBody,
)
from tests.support.task_queues import qstash_signature

URL = "https://worker.example.com/wake"
CURRENT, NEXT = "sig_current", "sig_next"
VERIFIER = SignatureVerifier(URL, [CURRENT, NEXT])


def refused(token: str, query: str = "") -> str:
    """Why it is refused."""
    problem = VERIFIER.judge([token], query, time.time())
    assert isinstance(problem, SignatureProblem)
    return problem.value


@pytest.mark.parametrize("key", [CURRENT, NEXT])
@pytest.mark.parametrize("query", ["", "hold=60&retry=on", "hold=1%20m"])
def test_what_either_key_has_signed_for_the_address_passes(key: str, query: str) -> None:
    token = qstash_signature(key, f"{URL}?{query}" if query else URL, b"{}")

    signed = VERIFIER.judge([token], query, time.time())

    assert isinstance(signed, SignedBody)
    assert signed.problem(b"{}") is None
    assert signed.problem(b"{} ") is SignatureProblem.BODY


def test_the_example_of_the_documentation_is_read_as_it_stands() -> None:
    """Its hash is padded: https://upstash.com/docs/qstash/features/security."""
    times = {"exp": 1656580612, "nbf": 1656580312, "iat": 1656580312}
    body = "qK78N0k3pNKI8zN62Fq2Gm-_LtWkJk1z9ykio3zZvY4="
    url = "https://qstash-remote.requestcatcher.com/test"
    token = qstash_signature(CURRENT, url, claims={**times, "body": body})

    signed = SignatureVerifier(url, [CURRENT]).judge([token], "", 1656580400.0)

    assert signed == SignedBody(body)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "Another"}, "expected Upstash"),
        ({"sub": "https://api.example.com/hook"}, "expected one for CONVOLAB_WAKE_URL"),
        ({"sub": "http://worker.example.com/wake"}, "expected one for CONVOLAB_WAKE_URL"),
        ({"sub": f"{URL}?hold=3600"}, "with the query of this request"),
        ({"sub": "https://[x/wake"}, "expected one for CONVOLAB_WAKE_URL"),
        ({"sub": ["https://worker.example.com/wake"]}, "expected one for CONVOLAB_WAKE_URL"),
        ({"exp": time.time() - 60}, "has expired"),
        ({"exp": float("nan")}, "has expired"),
        ({"nbf": time.time() + 86_400}, "not valid yet"),
        ({"exp": None}, "exp, nbf and body"),
        ({"nbf": "0"}, "exp, nbf and body"),
        ({"body": None}, "exp, nbf and body"),
    ],
)
def test_each_claim_is_compared_and_the_refusal_says_which(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason in refused(qstash_signature(CURRENT, URL, claims=changes))


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, []])
def test_no_other_algorithm_is_taken(header: Any) -> None:
    assert "HS256" in refused(qstash_signature(CURRENT, URL, header=header))


def test_a_clock_may_be_some_seconds_off() -> None:
    early = qstash_signature(CURRENT, URL, claims={"nbf": time.time() + 5})
    late = qstash_signature(CURRENT, URL, claims={"exp": time.time() - 5})

    for token in (early, late):
        assert isinstance(VERIFIER.judge([token], "", time.time()), SignedBody)


def test_another_key_and_two_headers_are_refused() -> None:
    right = qstash_signature(CURRENT, URL)

    assert "expected one by CONVOLAB_WAKE_SIGNING_KEY" in refused(qstash_signature("other", URL))
    assert VERIFIER.judge([right, right], "", time.time()) is SignatureProblem.FORM


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_whatever_else_is_sent_is_refused_and_none_of_it_is_in_the_reason(token: str) -> None:
    reason = refused(token)

    assert reason.startswith("expected one")


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 127))
def test_a_signature_with_a_character_changed_is_refused(place: int, code: int) -> None:
    right = qstash_signature(CURRENT, URL)
    at = place % len(right)
    wrong = right[:at] + chr(code) + right[at + 1 :]
    if wrong.rstrip("=") != right:
        refused(wrong)
