"""Which stretches of speech a voice is taken from."""

from deployments.messages import SpeechSpan

WINDOW_MS = 1500
"""Long enough to tell a voice by, short enough to hold one voice most of the time."""

HOP_MS = 750


def windows_of(span: SpeechSpan) -> tuple[SpeechSpan, ...]:
    """Windows of :data:`WINDOW_MS`, one each :data:`HOP_MS`, in milliseconds of the recording.

    The last one is moved back so that it ends where the span does. A span that is shorter than a window
    is one window as it is.
    """
    last = span.end_ms - WINDOW_MS
    if last <= span.begin_ms:
        return (span,)
    begins = [*range(span.begin_ms, last, HOP_MS), last]
    return tuple(SpeechSpan(begin, begin + WINDOW_MS) for begin in begins)
