"""``GET /admin/state``, and the page at ``/admin`` that shows it."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

import serve_app.web
from serve_app.api.admin.access import AdminAccess
from serve_app.overview import Overview, OverviewSource
from serve_app.services import Services
from serve_app.web.files import MEDIA_TYPES, page_headers

_HERE = Path(serve_app.web.__file__).parent / "admin"


def admin_router(services: Services, overview: OverviewSource) -> APIRouter:
    """Its routes. The page is for everybody, since it holds nothing; what it shows is not."""
    router = APIRouter()
    access = AdminAccess(services.settings, services.access)
    headers = page_headers("'self'")
    assets = {path.name: path for path in _HERE.iterdir() if path.suffix in MEDIA_TYPES}
    index = assets.pop("index.html")

    @router.get("/admin/state", tags=["Operation"], response_model=Overview)
    async def state(request: Request, response: Response) -> Overview:
        """Deployments with their replicas and queues, sessions, files and jobs, at this moment."""
        access.check(request)
        response.headers["cache-control"] = "no-store"
        return await overview()

    @router.api_route("/admin", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(index, headers=headers, media_type=MEDIA_TYPES[".html"])

    @router.api_route("/admin/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(name: str) -> Response:
        found = assets.get(name)
        if found is None:
            return Response("There is no such file.\n", 404, media_type="text/plain")
        return FileResponse(found, headers=headers, media_type=MEDIA_TYPES[found.suffix])

    return router
