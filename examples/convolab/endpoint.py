"""Any service with OpenAI's interface, for dialogues and pictures; used only when it is set up.

========================  =====================================================================
``OPENAI_BASE_URL``       where it is; https://api.openai.com/v1 without it
``OPENAI_API_KEY``        its key; a service on one's own machine may need none
``OPENAI_MODEL``          the model for dialogues; without it, dialogues are composed offline
``OPENAI_IMAGE_MODEL``    the model for pictures; without it, pictures are drawn offline
========================  =====================================================================
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from convolab_worker import errors

_DEFAULT_URL = "https://api.openai.com/v1"
_TIMEOUT = aiohttp.ClientTimeout(total=180, connect=10)
_BUSY, _BAD_REQUEST, _SERVER_ERROR = 429, 400, 500


class EndpointError(Exception):
    """The service failed in a way that may pass; the job's own attempts decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A service and the model of it to use."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], model_variable: str) -> Endpoint | None:
        """Return the service that the environment names for ``model_variable``, or None."""
        model = environ.get(model_variable, "")
        key, url = environ.get("OPENAI_API_KEY", ""), environ.get("OPENAI_BASE_URL", "")
        if not model or not (key or url):
            return None
        return cls(base_url=(url or _DEFAULT_URL).rstrip("/"), model=model, key=key)

    async def chat(self, messages: list[dict[str, str]], *, key: str = "") -> str:
        """Return the model's answer to ``messages``, asked for as one JSON object.

        A service that knows ``key`` answers the same request once.
        """
        answer = await self._post(
            "chat/completions",
            {
                "model": self.model,
                "messages": messages,
                "response_format": {"type": "json_object"},
            },
            key,
        )
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            msg = f"{self.model} answered without choices[0].message.content"
            raise EndpointError(msg)
        return content

    async def picture(self, prompt: str, *, key: str = "") -> bytes:
        """Return a picture of ``prompt``, in any format; ``key`` is as for ``chat``."""
        request = {"model": self.model, "prompt": prompt, "n": 1, "size": "1024x1024"}
        answer = await self._post("images/generations", request, key)
        try:
            entry = answer["data"][0]
            if entry.get("b64_json"):
                return base64.b64decode(entry["b64_json"], validate=True)
            url = str(entry["url"])
        except (KeyError, IndexError, TypeError, AttributeError, binascii.Error) as error:
            msg = f"{self.model} answered without data[0].b64_json or data[0].url"
            raise EndpointError(msg) from error
        return await self._get(url)

    async def _post(self, path: str, body: dict[str, Any], key: str) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        if key:
            headers["Idempotency-Key"] = key
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(f"{self.base_url}/{path}", json=body, headers=headers) as response,
            ):
                if response.status >= _BAD_REQUEST:
                    raise refusal(response.status, response.headers, await response.text())
                return await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            msg = f"{self.base_url}/{path}: {type(error).__name__}: {error}"
            raise EndpointError(msg) from error

    async def _get(self, url: str) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, raise_for_status=True) as session,
                session.get(url) as response,
            ):
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            msg = f"the picture could not be fetched: {type(error).__name__}: {error}"
            raise EndpointError(msg) from error


def refusal(status: int, headers: Mapping[str, str], text: str) -> Exception:
    """Turn an answer of 400 or more into what the worker should do about it.

    Too many requests: no job of the queue asks until the service says so. The service's own
    failure: an attempt that failed. Anything else, a wrong key or model: no further attempt helps.
    """
    reason = f"the endpoint answered {status}: {text.strip()[:300]}"
    if status == _BUSY:
        wait = headers.get("Retry-After", "")
        return errors.RateLimited(delay=min(float(wait), 600.0) if wait.isdigit() else 20.0)
    if status >= _SERVER_ERROR:
        return EndpointError(reason)
    return errors.UnrecoverableError(reason)
