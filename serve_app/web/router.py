"""Serves the page at ``/ws/v1/asr/test`` and its assets below it."""

from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from serve_app.models import ServedModel

_HERE = Path(__file__).parent
_PAGE = "/ws/v1/asr/test"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_HEADERS = {
    # The recognizer's address can be edited, so sockets may go anywhere; everything else comes from here.
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A file keeps its name when the service is updated: browsers ask each time, mostly for a 304.
    "Cache-Control": "no-cache",
}


def page_router(models: Iterable[ServedModel] = ()) -> APIRouter:
    """Routes of the page, which lets its users choose among ``models``.

    It needs nothing else: it finds the recognizer beside its own address.
    """
    names = [model.id for model in models]
    router = APIRouter(include_in_schema=False)
    assets = {path.name: path for path in _HERE.iterdir() if path.suffix in _MEDIA_TYPES}
    index = assets.pop("index.html")

    @router.api_route(_PAGE, methods=["GET", "HEAD"])
    async def page() -> FileResponse:
        return _file(index)

    @router.get(_PAGE + "/models.json")
    async def models_of_the_page() -> JSONResponse:
        """Their names are no secret: the page has to show them before anybody types a key."""
        return JSONResponse({"models": names}, headers=_HEADERS)

    @router.api_route(_PAGE + "/{name}", methods=["GET", "HEAD"])
    async def asset(name: str) -> Response:
        found = assets.get(name)
        return _file(found) if found else Response("There is no such file.\n", 404, media_type="text/plain")

    return router


def _file(path: Path) -> FileResponse:
    return FileResponse(path, headers=_HEADERS, media_type=_MEDIA_TYPES[path.suffix])
