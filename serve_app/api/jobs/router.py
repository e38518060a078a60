"""``/v1/jobs``: recordings that take longer than a client holds its connection."""

from fastapi import APIRouter

from serve_app.services import Services


def jobs_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    return APIRouter(tags=["Jobs"])
