"""What ends a job, what only delays it, and what its owner is told."""

from collections.abc import Mapping

from sqlalchemy.exc import SQLAlchemyError

from serve_app import errors
from serve_app.jobs.types import JobError

_CODES: Mapping[type[errors.AsrError], str] = {
    errors.UnsupportedFormat: "unsupported_format",
    errors.InvalidAudio: "invalid_audio",
    errors.AudioTooLarge: "audio_too_large",
    errors.DownloadFailed: "download_failed",
    errors.InvalidParameter: "invalid_value",
    errors.Unsupported: "unsupported",
    errors.ModelNotFound: "model_not_found",
    errors.NotFound: "not_found",
    errors.Conflict: "conflict",
    errors.RateLimited: "rate_limit_exceeded",
    errors.Overloaded: "overloaded",
    errors.UpstreamLost: "model_unavailable",
    errors.Internal: "internal_error",
}
"""As a request that fails at once is told; what is not in here is a fault of this server."""

_FAULT = JobError("internal_error", "The server met an unexpected fault; its log holds the details.")


def is_transient(error: Exception) -> bool:
    """Whether the same job may well succeed later: something is busy, gone, or full for now."""
    if isinstance(error, errors.DownloadFailed):
        return error.temporary
    return isinstance(error, errors.UpstreamLost | errors.Overloaded | SQLAlchemyError | OSError)


def job_error(error: Exception) -> JobError:
    """What the owner of a job that failed is told."""
    code = next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), None)
    if code is None or not isinstance(error, errors.AsrError):
        return _FAULT
    # It may quote what a client sent, and not every database takes every character.
    message = error.message.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return JobError(code, message)
