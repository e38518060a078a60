"""Aliyun's and funasr-api's HTTP routes, under ``/stream/v1``, and file transcription."""

from fastapi import APIRouter

from serve_app.services import Services


def aliyun_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    return APIRouter(tags=["Aliyun"])
