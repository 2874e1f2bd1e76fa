"""A client and a worker in the life of a FastAPI or Starlette application."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI looks at it when it runs

from convolab_worker.client.client import JobClient
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from convolab_worker.settings import Settings


def jobs_lifespan(
    *others: AbstractAsyncContextManager[Any], settings: Settings | None = None, **overrides: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan with a JobClient, which ``job_client`` gives to endpoints.

    ``others``, such as a Worker or an AsgiMount, are entered after it in their order, and left
    before it. For ``FastAPI(lifespan=jobs_lifespan(worker))``. Raises ConfigurationError.
    """
    client = JobClient(settings, **overrides)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with client, AsyncExitStack() as stack:
            for other in others:
                await stack.enter_async_context(other)
            app.state.job_client = client  # for tests that call it without a server
            yield {"job_client": client}  # for applications that are mounted into it

    return lifespan


def job_client(connection: HTTPConnection) -> JobClient:
    """Return the application's client: ``Annotated[JobClient, Depends(job_client)]``.

    Raises ConfigurationError in an application without ``jobs_lifespan``.
    """
    for state in (connection.state, connection.app.state):
        client: JobClient | None = getattr(state, "job_client", None)
        if client is not None:
            return client
    msg = "job_client: expected an application with lifespan=jobs_lifespan(), which has begun"
    raise ConfigurationError(msg)
