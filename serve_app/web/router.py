"""Serves the page at ``/ws/v1/asr/test`` and its assets below it."""

from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from serve_app.models import ServedModel
from serve_app.web.files import MEDIA_TYPES, page_headers

_HERE = Path(__file__).parent
_PAGE = "/ws/v1/asr/test"

# The recognizer's address can be edited, so sockets may go anywhere; everything else comes from here.
_CONNECTS_TO = "'self' ws: wss:"


def page_router(models: Iterable[ServedModel] = ()) -> APIRouter:
    """Routes of the page, which lets its users choose among ``models``.

    It needs nothing else: it finds the recognizer beside its own address.
    """
    names = [model.id for model in models]
    router = APIRouter(include_in_schema=False)
    assets = {path.name: path for path in _HERE.iterdir() if path.suffix in MEDIA_TYPES}
    index = assets.pop("index.html")
    headers = page_headers(_CONNECTS_TO)

    def file(path: Path) -> FileResponse:
        return FileResponse(path, headers=headers, media_type=MEDIA_TYPES[path.suffix])

    @router.api_route(_PAGE, methods=["GET", "HEAD"])
    async def page() -> FileResponse:
        return file(index)

    @router.get(_PAGE + "/models.json")
    async def models_of_the_page() -> JSONResponse:
        """Their names are no secret: the page has to show them before anybody types a key."""
        return JSONResponse({"models": names}, headers=headers)

    @router.api_route(_PAGE + "/{name}", methods=["GET", "HEAD"])
    async def asset(name: str) -> Response:
        found = assets.get(name)
        return file(found) if found else Response("There is no such file.\n", 404, media_type="text/plain")

    return router
