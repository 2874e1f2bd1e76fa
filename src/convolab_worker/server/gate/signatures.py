"""Verifies requests that QStash has signed (``Upstash-Signature``). Pure.

Each request carries a JSON Web Token that is signed by HMAC-SHA256 with the account's current key,
or with its next one while the keys are rolled, and that names the address, the times and the
body: https://upstash.com/docs/qstash/features/security and …/howto/roll-signing-keys.

The standard library has all that this needs. A library for all kinds of tokens would be a
dependency whose other algorithms and keys would have to be turned off.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADER = "Upstash-Signature"

_ISSUER = "Upstash"
_CLOCK_SKEW_SECONDS = 10
# More characters than a token of QStash has: its claims are one address and five short values.
_MAX_LENGTH = 16_000


class SignatureProblem(StrEnum):
    """Why a signature is refused; it quotes no value of it."""

    FORM = "expected one JSON Web Token by HS256"
    KEY = "expected one by CONVOLAB_WAKE_SIGNING_KEY or CONVOLAB_WAKE_NEXT_SIGNING_KEY"
    ISSUER = "expected Upstash as its issuer"
    ADDRESS = "expected one for CONVOLAB_WAKE_URL, with the query of this request"
    CLAIMS = "expected one with exp, nbf and body"
    EARLY = "it is not valid yet: expected clocks that agree"
    LATE = "it has expired"
    BODY = "it was made for another body"


class SignedBody(Struct, frozen=True):
    """What a signature, right in all else, says of the body."""

    sha256: str

    def problem(self, body: bytes) -> SignatureProblem | None:
        """What is wrong with this body; None if it is the one that was signed."""
        given = _encoded(hashlib.sha256(body).digest())
        signed = self.sha256.rstrip("=").encode("utf-8", "surrogatepass")
        return None if hmac.compare_digest(given, signed) else SignatureProblem.BODY


class SignatureVerifier(Struct, frozen=True):
    """Accepts what was signed for ``url``, as the sender has it, with one of the ``keys``."""

    url: str
    keys: Sequence[str]

    def judge(self, tokens: Sequence[str], query: str, now: float) -> SignedBody | SignatureProblem:
        """Return what is signed of the body, if all else is right, or what is wrong.

        ``tokens`` are the values of the header, ``query`` is the request's, ``now`` is in epoch
        seconds.
        """
        claims = self._claims(tokens)
        if isinstance(claims, SignatureProblem):
            return claims
        if claims.get("iss") != _ISSUER:
            return SignatureProblem.ISSUER
        if not self._is_for(claims.get("sub"), query):
            return SignatureProblem.ADDRESS
        begins, ends, body = claims.get("nbf"), claims.get("exp"), claims.get("body")
        if not (_is_number(begins) and _is_number(ends) and isinstance(body, str)):
            return SignatureProblem.CLAIMS
        if not begins - _CLOCK_SKEW_SECONDS <= now:
            return SignatureProblem.EARLY
        return SignedBody(body) if now < ends + _CLOCK_SKEW_SECONDS else SignatureProblem.LATE

    def _claims(self, tokens: Sequence[str]) -> Mapping[str, Any] | SignatureProblem:
        """Return what is signed. Nothing of it is parsed before the signature has been found right.

        Both parts are JSON then: a holder of the key has written them.
        """
        token = tokens[0] if len(tokens) == 1 else ""
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if len(token) > _MAX_LENGTH or not token.isascii() or not payload:
            return SignatureProblem.FORM
        if not any(self._has_signed(key, signed, signature) for key in self.keys):
            return SignatureProblem.KEY
        try:
            kind, claims = json.loads(_decoded(header)), json.loads(_decoded(payload))
        except (ValueError, RecursionError):
            return SignatureProblem.FORM
        if not isinstance(kind, dict) or kind.get("alg") != "HS256" or not isinstance(claims, dict):
            return SignatureProblem.FORM
        return claims

    @staticmethod
    def _has_signed(key: str, signed: str, signature: str) -> bool:
        digest = hmac.digest(key.encode(), signed.encode(), "sha256")
        return hmac.compare_digest(_encoded(digest), signature.rstrip("=").encode())

    def _is_for(self, subject: Any, query: str) -> bool:
        """Whether this request's address is the subject; a proxy may have changed its path."""
        if not isinstance(subject, str):
            return False
        try:
            given, ours = urlsplit(subject), urlsplit(self.url)
        except ValueError:
            return False
        return (
            (given.scheme, given.netloc.lower(), given.path)
            == (ours.scheme, ours.netloc.lower(), ours.path)
            and _pairs(given.query) == _pairs(query)
        )  # fmt: skip


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
