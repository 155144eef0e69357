"""HTTP connections that end where a request takes too long to come, or its response to be read."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0
"""uvicorn by itself waits without end for a request to come, and for the reader of a response."""


class TimedProtocol(H11Protocol):
    """A connection with ``REQUEST_SECONDS`` for each request, from the response before it to its own."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request."""
        super().connection_made(transport)
        self._restart()

    def on_response_complete(self) -> None:
        """Start the time of the next request."""
        super().on_response_complete()
        self._restart()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        if self.deadline is not None:
            self.deadline.cancel()
        super().connection_lost(exc)

    def _restart(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        # Not close(), which would wait until all is read that was sent.
        self.deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
