"""How a protocol answers errors: each of its routes gives them in the shape that its clients read."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve_app.activity import note_error
from serve_app.errors import AsrError, Internal

logger = logging.getLogger("ray.serve")

ErrorShape = Callable[[Request, AsrError], Response]
"""Gives an error as an answer of one protocol."""


def answering(shape: ErrorShape) -> type[APIRoute]:
    """A ``route_class`` for an ``APIRouter`` whose errors, unforeseen ones included, look like ``shape``."""

    class ProtocolRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handle(request)
                except AsrError as error:
                    note_error(error)
                    return shape(request, error)
                except (HTTPException, ClientDisconnect):
                    raise
                except Exception as error:
                    logger.exception("unexpected fault in %s %s", request.method, request.url.path)
                    fault = Internal("The server met an unexpected fault; its log holds the details.")
                    fault.__cause__ = error
                    note_error(fault)
                    return shape(request, fault)

            return answer

    return ProtocolRoute
