"""``/v1/realtime``, where OpenAI's SDKs transcribe live speech, and the routes that give out its secrets."""

import re
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from serve_app.api.access import Client
from serve_app.api.openai.errors import error_object
from serve_app.api.realtime import dialects
from serve_app.api.realtime.config import Config
from serve_app.api.realtime.connection import RealtimeConnection, refuse, shown
from serve_app.api.realtime.errors import Mistake
from serve_app.api.realtime.secrets import ClientSecrets
from serve_app.api.realtime.speakers import Speakers
from serve_app.api.sockets import POLICY_VIOLATION
from serve_app.errors import AsrError, Unauthenticated, Unsupported
from serve_app.services import Services

_SUBPROTOCOL, _BETA_SUBPROTOCOL = "realtime", "openai-beta.realtime-v1"
_BETA_HEADER = "realtime=v1"
_TRANSCRIBES = re.compile("transcri|whisper")

_LEGACY_SECONDS = 60
"""How long the beta's secrets hold, as OpenAI's do."""


class ExpiresAfter(BaseModel):
    """When a secret expires: ``seconds`` after it was made."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(600, ge=10, le=7200)


class ClientSecretRequest(BaseModel):
    """A secret that is wanted, and the session that it shall open."""

    expires_after: ExpiresAfter | None = None
    session: dict[str, Any] | None = Field(None, description="As in `session.update`.")


class ClientSecretBody(BaseModel):
    """A secret; `expires_at` in seconds since 1970."""

    value: str
    expires_at: int
    session: dict[str, Any]


def realtime_router(services: Services) -> APIRouter:
    """The Realtime API, for clients with a valid key."""
    router = APIRouter(prefix="/v1/realtime", tags=["OpenAI Realtime"])
    secrets = ClientSecrets(services.access)

    @router.websocket("")
    async def transcribe(socket: WebSocket) -> None:
        """Transcribe live speech."""
        await _serve(services, secrets, socket)

    _add_secrets(router, services, secrets)
    return router


def _add_secrets(router: APIRouter, services: Services, secrets: ClientSecrets) -> None:
    caller = Depends(services.access.admit)

    @router.post("/client_secrets")
    async def create_client_secret(
        client: Annotated[Client, caller], wanted: Annotated[ClientSecretRequest | None, Body()] = None
    ) -> ClientSecretBody:
        """A key that expires, for a browser or an app to open `/v1/realtime` with."""
        wanted = wanted or ClientSecretRequest()
        expires = wanted.expires_after or ExpiresAfter()
        changes = dialects.ga_changes(wanted.session)
        config = _checked(services, changes, dialects.GA_NAMES)
        secret = secrets.issue(client, expires.seconds, config.model_dump(exclude_unset=True))
        session = dialects.ga_session(config, shown(services, services.settings.live_max_connection_sec))
        return ClientSecretBody(value=secret.value, expires_at=secret.expires_at, session=session)

    @router.post("/transcription_sessions")
    async def create_transcription_session(
        client: Annotated[Client, caller], wanted: Annotated[dict[str, Any] | None, Body()] = None
    ) -> dict[str, Any]:
        """The same as the beta has it: a session with its `client_secret`."""
        config = _checked(services, dialects.beta_changes(wanted), dialects.BETA_NAMES)
        secret = secrets.issue(client, _LEGACY_SECONDS, config.model_dump(exclude_unset=True))
        session = dialects.beta_session(config, shown(services, services.settings.live_max_connection_sec))
        return {**session, "client_secret": {"value": secret.value, "expires_at": secret.expires_at}}


def _checked(services: Services, changes: dict[str, Any], names: dict[str, str]) -> Config:
    """A session's configuration that can be served; raises :class:`Mistake`."""
    config = dialects.updated(Config(), changes, names)
    config.live_options(services.live, services.transcriber, names)
    return config


async def _serve(services: Services, secrets: ClientSecrets, socket: WebSocket) -> None:
    offered = socket.scope.get("subprotocols", ())
    subprotocol = _SUBPROTOCOL if _SUBPROTOCOL in offered else None
    beta = _BETA_SUBPROTOCOL in offered or socket.headers.get("openai-beta") == _BETA_HEADER
    async with AsyncExitStack() as place:
        try:
            client = await place.enter_async_context(services.access.serve(socket, secrets.identify))
            config = _configured(secrets, socket)
            speakers = Speakers(services.speakers, client.id)
            await speakers.ask(config, dialects.GA_NAMES)
            begin = place.enter_context(services.live.admit())
            connection = RealtimeConnection(socket, services, config, begin, speakers, beta=beta)
        except Unauthenticated as error:
            await _deny(socket, error)
            return
        except AsrError as error:
            await socket.accept(subprotocol)
            await refuse(socket, error)
            return
        await socket.accept(subprotocol)
        await connection.run()


def _configured(secrets: ClientSecrets, socket: WebSocket) -> Config:
    """What a session begins with: what its secret was made for, and the model that its address names.

    Raises:
        Mistake: an address that asks for what cannot be.
        Unsupported: it asks for a speech-to-speech session.
    """
    secret = secrets.find(socket)
    intent, model = socket.query_params.get("intent"), socket.query_params.get("model")
    if intent not in (None, "", "transcription"):
        raise Mistake(f"The intent of a session must be 'transcription', not {intent!r:.60}.", "intent")
    if secret is not None:
        return dialects.updated(Config(), secret.session, dialects.GA_NAMES)
    if model and "realtime" in model and not _TRANSCRIBES.search(model):
        if not intent:
            raise Unsupported(
                f"This server transcribes; it holds no speech-to-speech sessions with {model!r:.60}. "
                "For a transcription session, connect with ?intent=transcription."
            )
        model = None
    changes = {"transcription": {"model": model}} if model else {}
    return dialects.updated(Config(), changes, {**dialects.GA_NAMES, "transcription": "transcription"})


async def _deny(socket: WebSocket, error: Unauthenticated) -> None:
    """Refuse before there is a WebSocket: with the status 401 where the server in front can send one."""
    if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
        await socket.close(POLICY_VIOLATION, error.message)
        return
    headers = {"www-authenticate": "Bearer"}
    await socket.send_denial_response(JSONResponse({"error": error_object(error)}, 401, headers))
