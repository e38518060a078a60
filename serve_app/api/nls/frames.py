"""Events, which are the server's text messages, as JSON."""

import json
import uuid
from typing import Any

from serve_app.activity import note_error
from serve_app.api.nls.errors import SUCCESS, live_code
from serve_app.errors import AsrError, Unauthenticated

Payload = dict[str, Any]

TASK_FAILED = "TaskFailed"

_FAILED_NAMESPACE = "Default"
_STATUS_TEXT = "Gateway:SUCCESS:Success."
_STATUS_MESSAGE = "GATEWAY|SUCCESS|Success."


def event(namespace: str, name: str, task_id: str, payload: Payload | None = None) -> str:
    """A message that all is well. Without a payload, the message has none."""
    return _message(_header(namespace, name, task_id, SUCCESS, _STATUS_TEXT, _STATUS_MESSAGE), payload)


def failure(error: AsrError, task_id: str, token: str | None = None) -> str:
    """``TaskFailed``: why, in a sentence. ``token`` is what the client sent for one."""
    note_error(error)
    code = live_code(error)
    message = error.message
    if isinstance(error, Unauthenticated):
        message = f"The token '{(token or '')[:64]}' is invalid!"
    text = code.prefix + message
    return _message(_header(_FAILED_NAMESPACE, TASK_FAILED, task_id, code.status, text, text), None)


def _header(namespace: str, name: str, task_id: str, status: int, text: str, message: str) -> Payload:
    return {
        "namespace": namespace,
        "name": name,
        "status": status,
        "message_id": uuid.uuid4().hex,
        "task_id": task_id,
        # The live service sends one of them, its documentation the other; clients read either.
        "status_text": text,
        "status_message": message,
    }


def _message(header: Payload, payload: Payload | None) -> str:
    message = {"header": header} if payload is None else {"header": header, "payload": payload}
    # An id may hold half a surrogate pair, which JSON can escape and no message can carry.
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace").decode()
