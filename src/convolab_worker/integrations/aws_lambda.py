"""Runs jobs in AWS Lambda: an invocation is a drain, with the invocation's time as its budget."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import asdict

from convolab_worker.errors import ConfigurationError
from convolab_worker.server.gate.auth import authorization
from convolab_worker.server.gate.signatures import HEADER, SignedBody
from convolab_worker.settings import Settings
from convolab_worker.telemetry.log_stream import flush_log
from convolab_worker.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convolab_worker.handlers.registration.registry import HandlerRegistry

_log = logging.getLogger(__name__)


class LambdaContext(Protocol):
    """The part of Lambda's context that is used here."""

    def get_remaining_time_in_millis(self) -> int:
        """How long the invocation may still take."""


def lambda_handler(
    handlers: HandlerRegistry,
    settings: Settings | None = None,
    *,
    reserve: float = 2.0,
    **overrides: Any,
) -> Callable[[Any, LambdaContext], dict[str, Any]]:
    """Make a Lambda function of the handlers; give Lambda the name that it has in its module.

    Each invocation runs what is there until nothing is left, or until ``reserve`` seconds before
    the function's own time-out; a job that still runs then goes back to its queue, no attempt used
    up. The connections to Redis stay open between the invocations of one environment, and nothing
    is sent meanwhile.

    EventBridge and other events get ``{"status", "processed", "failed", "remaining",
    "next_due_at"}``. A function URL gets that as JSON, with 200, or 503 and ``Retry-After`` where
    work remains, so that a caller that repeats comes back; with ``CONVOLAB_WAKE_TOKEN`` or
    ``CONVOLAB_WAKE_SIGNING_KEY`` set, it needs that token as ``Authorization: Bearer`` or QStash's
    signature, and anything else gets 401.

    ``overrides`` are settings by name. Raises ConfigurationError for what can't work.
    """
    settings = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    if not reserve >= 0:
        msg = f"lambda_handler(reserve={reserve!r}): expected seconds, 0 or more"
        raise ConfigurationError(msg)
    return _LambdaFunction(handlers, settings.replace(wake_mode="held"), reserve)


class _LambdaFunction:
    """One environment's worker, in a loop that turns only while an invocation is under way."""

    def __init__(self, handlers: HandlerRegistry, settings: Settings, reserve: float) -> None:
        self._handlers = handlers
        self._settings = settings
        self._authorization = authorization(settings)
        self._reserve = reserve
        self._runner: asyncio.Runner | None = None
        self._worker: Worker | None = None

    def __call__(self, event: Any, context: LambdaContext) -> dict[str, Any]:
        """Run what is there; Lambda calls this once at a time."""
        request = _http_request(event)
        if request is not None and (refusal := self._refusal(request)) is not None:
            return _http_answer(401, {"error": refusal})
        result = self._drain(context.get_remaining_time_in_millis() / 1000 - self._reserve)
        flush_log()  # the environment may be frozen from here on, and never thaw
        if request is None:
            return result
        return _http_answer(503 if result["status"] == "budget" else 200, result)

    def _drain(self, budget: float) -> dict[str, Any]:
        if budget <= 0:
            msg = (
                f"the invocation has {budget + self._reserve:.1f} s left, of which its end needs "
                f"{self._reserve:g}: expected a longer time-out of the Lambda function"
            )
            raise ConfigurationError(msg)
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._hold(budget))

    async def _hold(self, budget: float) -> dict[str, Any]:
        if self._worker is None:
            worker = Worker(self._handlers, self._settings)
            await worker.__aenter__()
            self._worker = worker
        return asdict(await self._worker.hold(budget))

    def _refusal(self, request: _Request) -> str | None:
        """Why the request may not run anything; None if it may."""
        known, signature = self._authorization, self._authorization.signature
        if known.is_open or known.is_shared_token(request.headers.get("authorization")):
            return None
        signed = request.headers.get(HEADER.lower())
        if signature is None or signed is None:
            return "expected the wake token as a bearer token, or QStash's signature"
        judged = signature.judge([signed], request.query, time.time())
        problem = judged.problem(request.body) if isinstance(judged, SignedBody) else judged
        return None if problem is None else f"{HEADER}: {problem.value}"


@dataclass(frozen=True, slots=True)
class _Request:
    """A function URL's request; the names of headers are in lower case."""

    headers: Mapping[str, str]
    query: str
    body: bytes


def _http_request(event: Any) -> _Request | None:
    """A function URL's request; None for any other event."""
    if not isinstance(event, dict):
        return None
    context = event.get("requestContext")
    if not isinstance(context, dict) or "http" not in context:
        return None
    headers = event.get("headers")
    names = headers if isinstance(headers, dict) else {}
    body = str(event.get("body") or "")
    return _Request(
        headers={name.lower(): str(value) for name, value in names.items()},
        query=str(event.get("rawQueryString") or ""),
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
    )


def _http_answer(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    if status == 503:  # noqa: PLR2004 - HTTP's
        headers["retry-after"] = "1"
    return {"statusCode": status, "headers": headers, "body": json.dumps(body)}
