"""A client and a worker in the life of a FastAPI or Starlette application."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI looks at it when it runs

from convolab_worker.client.client import JobClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from convolab_worker.settings import Settings


def jobs_lifespan(
    *others: AbstractAsyncContextManager[Any], settings: Settings | None = None, **overrides: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan with a JobClient, which ``job_client`` gives to endpoints.

    ``others`` are entered after it in their order, and left before it: a Worker, an AsgiMount. For
    ``FastAPI(lifespan=jobs_lifespan(worker))``. Raises ConfigurationError.
    """
    client = JobClient(settings, **overrides)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        async with client, AsyncExitStack() as stack:
            for other in others:
                await stack.enter_async_context(other)
            yield {"job_client": client}

    return lifespan


def job_client(connection: HTTPConnection) -> JobClient:
    """Return the application's client: ``Annotated[JobClient, Depends(job_client)]``."""
    client: JobClient = connection.state.job_client
    return client
