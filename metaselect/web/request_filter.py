"""Which requests reach the labelling page's server: those of its own page, which knows the token, on this machine."""

import hmac
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from metaselect.annotation.formats.page import served_policy

LOOPBACK = "127.0.0.1"
MAX_HEADER_BYTES = 16 * 1024  # of the address and all headers; a browser's have about one thousand
HEADERS = {
    "Content-Security-Policy": f"{served_policy()}; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class RequestFilter:
    """Passes on the requests of the server's own page, refuses others, and sets the security headers of responses."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app = app
        self.token = token.encode()
        self.hosts = {f"{LOOPBACK}:{port}", f"localhost:{port}"}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on without the token in its path."""
        if scope["type"] != "http":  # no web sockets, and nothing to do at start and end
            return
        request = Request(scope)
        token, slash, path = scope["path"].removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token)
        sizes = (len(part) for header in scope["headers"] for part in header)
        if len(scope["path"]) + len(scope["query_string"]) + sum(sizes) > MAX_HEADER_BYTES:
            response: ASGIApp = error_response(431, f"The headers have more than {MAX_HEADER_BYTES} bytes.")
        elif request.headers.getlist("host") not in [[host] for host in self.hosts]:
            response = error_response(403, "This server answers to its own address only.")
        elif not self._from_here(request):
            response = error_response(403, "Requests come from this server's own page only.")
        elif not known or not slash:
            response = error_response(
                404, "There is nothing here. Open the address that was printed, all of it."
            )
        else:
            scope = {**scope, "path": f"/{path}", "raw_path": None, "root_path": ""}
            response = self.app

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await response(scope, receive, send_guarded)

    def _from_here(self, request: Request) -> bool:
        """Whether no other page made the request; one that changes something must have an Origin."""
        origin = request.headers.get("origin")
        if origin is None and request.method not in ("GET", "HEAD"):
            return False
        if origin is not None and origin not in self.origins:
            return False
        # A link to the page may be followed from anywhere, from a terminal in a browser for example.
        followed = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
        return followed or request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def error_response(status: int, why: str) -> Response:
    """A response with a reason, which the page shows."""
    if status == 404:
        return PlainTextResponse(why, status)
    return JSONResponse({"error": why}, status)
