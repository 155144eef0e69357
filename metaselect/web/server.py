"""The labelling session over HTTP, for browsers on this machine alone.

Access needs the token in the address. Other pages in the same browser cannot learn it: no referrer is sent, and a
request that names another host or comes from another page is refused.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from metaselect.annotation.formats.base import ClassNote
from metaselect.annotation.formats.page import served_page
from metaselect.data.images import decode
from metaselect.data.originals import MEDIA_TYPES
from metaselect.data.thumbnails import encode_small
from metaselect.errors import ArtefactError, LockedError, UsageError
from metaselect.records import Json
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.request_filter import LOOPBACK, MAX_HEADER_BYTES, RequestFilter, error_response
from metaselect.web.submitted_answer import InvalidRequest, SubmittedAnswer
from metaselect.web.timed_protocol import TimedProtocol

MAX_REQUEST_BYTES = 16 * 1024  # an answer has about two hundred
# A request is tried again after any ArtefactError, then the page shows the error (and goes on trying while the run is
# locked). Another command may hold the lock, and a request that only reads takes none: it may see votes.csv before
# stage.json records the new votes.
BUSY_TRIES = 20
BUSY_SECONDS = 0.1  # between two tries
AHEAD = 3  # images that a page may fetch before their turn
THUMBNAIL_SIDE = 96  # pixels, of the images beside earlier answers
Body = dict[str, Any]
Picture = tuple[str, bytes]  # media type and content of an image file


class Server:
    """The routes of a labelling session.

    Attributes:
        session: which browser is shown which sample.
        images: files by sample_id; samples without one show their id.
        suggest: gives predictions by sample_id; called at the first request for one.
        notes: about classes, which the page shows on demand.
    """

    def __init__(
        self,
        session: LabelingSession,
        images: Mapping[str, Path],
        *,
        annotator: str,
        suggest: Callable[[], Mapping[str, str]] | None,
        notes: Sequence[ClassNote] = (),
    ) -> None:
        self.session, self.images, self.suggest, self.notes = session, images, suggest, notes
        self.suggested: Mapping[str, str] | None = None
        self.suggesting = threading.Lock()  # several browsers may ask first; one of them reads
        self.page = served_page(
            session.classes, annotator=annotator, suggests=suggest is not None, notes=notes
        )

    def app(self, token: str, port: int) -> ASGIApp:
        """The application, which answers below ``/<token>/`` only.

        The host of a request must be ``127.0.0.1:<port>`` or ``localhost:<port>``.
        """
        images = {"image": self._image, "thumbnail": self._thumbnail, "class-image": self._class_image}
        handlers = {
            "next": self._next,
            "answer": self._answer,
            "undo": self._undo,
            "answered": self._answered,
            "revisit": self._revisit,
            "suggest": self._suggest,
            "release": self._release,
        }
        routes = [
            Route("/", self._page),
            *(Route(f"/{name}/{{number}}", image_route(read)) for name, read in images.items()),
            *(
                Route(f"/{name}", self._json_route(handle), methods=["POST"])
                for name, handle in handlers.items()
            ),
        ]
        inner = Starlette(routes=routes)
        inner.router.redirect_slashes = False
        return RequestFilter(inner, token, port)

    async def _page(self, request: Request) -> Response:
        del request
        return Response(self.page, media_type="text/html")

    def _image(self, key: int) -> Picture | None:
        path = self.images.get(self.session.sample_id(key))
        return (MEDIA_TYPES[path.suffix], path.read_bytes()) if path and path.is_file() else None

    def _thumbnail(self, key: int) -> Picture | None:
        found = self._image(key)
        image = decode(found[1]) if found else None
        return encode_small(image, THUMBNAIL_SIDE) if isinstance(image, Image) else None

    def _class_image(self, number: int) -> Picture | None:
        return self.notes[number].picture if number < len(self.notes) else None

    def _next(self, body: Body) -> dict[str, Json]:
        return self._with_images(self.session.next(body["session"]))

    def _answer(self, body: Body) -> dict[str, Json]:
        given = SubmittedAnswer.of(body)
        return self._with_images(self.session.answer(body["session"], body["annotator"], given))

    def _undo(self, body: Body) -> dict[str, Json]:
        return self._with_images(self.session.undo(body["session"], body["annotator"]))

    def _answered(self, body: Body) -> dict[str, Json]:
        answers = self.session.answered(body["annotator"])
        for each in answers:
            if str(each["id"]) in self.images:
                each["thumbnail"] = f"thumbnail/{each['key']}"
        return {"answers": [*answers]}

    def _revisit(self, body: Body) -> dict[str, Json]:
        return self._with_images(self.session.revisit(body["session"], body["annotator"], body.get("key")))

    def _release(self, body: Body) -> dict[str, Json]:
        self.session.release(body["session"])
        return {}

    def _suggest(self, body: Body) -> dict[str, Json]:
        sample_id = self.session.sample_id(body.get("key"))
        with self.suggesting:
            if self.suggested is None:
                self.suggested = self.suggest() if self.suggest else {}
        return {"label": self.suggested.get(sample_id)}

    def _with_images(self, state: dict[str, Json]) -> dict[str, Json]:
        """The state with the addresses of the sample's image, and of those that the page may fetch ahead."""
        item = state["item"]
        if isinstance(item, dict) and str(item["id"]) in self.images:
            item["image"] = f"image/{item['key']}"
        if self.images:
            keys = self.session.upcoming(AHEAD)
            state["ahead"] = [f"image/{key}" for key in keys if self.session.ids[key] in self.images]
        return state

    def _json_route(
        self, handle: Callable[[Body], dict[str, Json]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route of JSON in and JSON out; it reads and writes files in a thread, so that other requests go on."""

        async def respond(request: Request) -> Response:
            try:
                body = await read_body(request)
                for left in reversed(range(BUSY_TRIES)):
                    try:
                        return JSONResponse(await run_in_threadpool(handle, body))
                    except ArtefactError:
                        if not left:
                            raise
                    await asyncio.sleep(BUSY_SECONDS)
            except InvalidRequest as error:
                return error_response(400, str(error))
            except ArtefactError as error:
                return error_response(503 if isinstance(error, LockedError) else 409, f"{error} {error.hint}")
            except OSError as error:
                return error_response(500, f"It could not be saved: {error.strerror}.")
            raise AssertionError("the last try answers or raises")

        return respond


def image_route(read: Callable[[int], Picture | None]) -> Callable[[Request], Awaitable[Response]]:
    """A route of images by number; they are read and made in a thread, so that other requests go on."""

    async def respond(request: Request) -> Response:
        number = request.path_params["number"]
        found = None
        if number.isascii() and number.isdecimal() and len(number) < 10:
            with suppress(InvalidRequest):
                found = await run_in_threadpool(read, int(number))
        if found is None:
            return error_response(404, "There is no such image.")
        return Response(found[1], media_type=found[0])

    return respond


async def read_body(request: Request) -> Body:
    """The request's JSON object, with session and annotator as text.

    Raises:
        InvalidRequest: too long, not JSON, or without session and annotator.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InvalidRequest("The content type of the request is not application/json. Reload the page.")
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_REQUEST_BYTES:
            raise InvalidRequest(f"The request has more than {MAX_REQUEST_BYTES} bytes. Reload the page.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidRequest("The request is not a JSON object. Reload the page.")
    session, annotator = body.get("session"), body.get("annotator")
    if not (isinstance(session, str) and 0 < len(session) <= 64 and isinstance(annotator, str)):
        raise InvalidRequest(
            "The request needs a session of 1 to 64 characters and an annotator, both texts. Reload the page."
        )
    return body


def bind(port: int) -> socket.socket:
    """A socket on the loopback address; port 0 is any free one.

    Raises:
        UsageError: the port is taken, or the user may not use it.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"--port {port}: {error.strerror}.", "Name another one, or none for any that is free."
        ) from None
    return listener


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer requests until SIGINT."""
    make_server(app).run(sockets=[listener])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """The server, which ends where its ``should_exit`` is set."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        log_config=None,
        log_level="critical",
        access_log=False,  # it would contain the token
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
