"""Live sessions of one ingress replica: admission, defaults, measures. What every live protocol opens."""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Protocol
from weakref import WeakSet

from deployments.messages import Hotword, RecognitionOptions
from serve_app.activity import current_activity
from serve_app.errors import InvalidParameter, Overloaded
from serve_app.followed_session import FollowedSession
from serve_app.measured_session import MeasuredSession
from serve_app.models import ServedModel, ServedModels
from serve_app.observability.meter import LiveMetrics
from serve_app.pipeline.finishing import Finisher
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.hotwords import LONGEST_CONTEXT, context_of
from serve_app.pipeline.hotwords_file import ServerHotwords
from serve_app.pipeline.hotwords_report import AskedHotwords
from serve_app.pipeline.live.events import (
    LiveOptions,
    NearField,
    Redecoding,
)
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.settings import Settings

_RETRY_AFTER_SECONDS = 5

_LONGEST_REDECODED_MS = 30_000
"""A generative model hears all of a sentence at each step, so this is what bounds a step."""


class Follower(Protocol):
    """Holds a client's connection."""

    def end(self) -> None:
        """Tell what there is to tell, and close it."""
        ...


class LiveService:
    """Opens live sessions; refuses more than ``max_live_sessions`` at once."""

    def __init__(
        self,
        graph: LiveGraph,
        settings: Settings,
        metrics: LiveMetrics | None = None,
        tuning: SpeakerTuning | None = None,
    ) -> None:
        """``tuning`` is what the speaker model says of voices; ``None``: what is right for most."""
        self._graph = graph
        self._tuning = tuning or SpeakerTuning()
        self._max_sessions = settings.max_live_sessions
        self._metrics = metrics
        self._active = 0
        self._by_protocol: Counter[str] = Counter()
        self._followers: WeakSet[Follower] = WeakSet()
        self._finisher = Finisher()
        near_field = NearField(threshold=settings.asr_nearfield_rms_threshold)
        self._options = LiveOptions(
            max_sentence_silence_ms=settings.live_end_silence_ms,
            max_sentence_ms=round(settings.live_max_sentence_sec * 1000),
            near_field=near_field if settings.asr_enable_nearfield_filter else None,
        )
        self._hotwords = ServerHotwords(settings.hotwords_file)
        self._redecoding = Redecoding(round(settings.live_step_sec * 1000))
        self.models = ServedModels(settings)
        self.defaults = self.options(self.models.default)
        """How a session listens whose client asks for nothing else."""

    def options(
        self,
        model: ServedModel,
        language: str | None = None,
        context: str = "",
        hotwords: Sequence[Hotword] = (),
    ) -> LiveOptions:
        """How a session listens by ``model`` whose client asks for nothing else.

        ``language``, as a client names it, ``context`` and ``hotwords`` are for a model that can make use of
        them: one that writes text is told the hotwords in its context.

        Raises:
            InvalidParameter: such a model does not know the language, or the context is too long.
        """
        asked = AskedHotwords.of(tuple(hotwords), model)
        listens = model.hears_hotwords and not model.reads_context
        words = self._hotwords.merged(hotwords) if listens else ()
        code = model.code_of(language) if model.hears_languages else None
        if not model.is_generative:
            recognition = RecognitionOptions(model.id, code, hotwords=words)
            return replace(self._options, recognition=recognition, hotwords=asked)
        told = context_of(context, hotwords)
        if len(told) > LONGEST_CONTEXT:
            raise InvalidParameter(
                f"The context may have {LONGEST_CONTEXT} characters at most, not {len(told)}.", "context"
            )
        told = context_of(context, hotwords, self._hotwords.words)
        return replace(
            self._options,
            max_sentence_ms=min(self._options.max_sentence_ms, _LONGEST_REDECODED_MS),
            recognition=RecognitionOptions(model.id, code, told, hotwords=words),
            redecoding=self._redecoding,
            hotwords=asked,
        )

    def follow(self, follower: Follower) -> None:
        """Have ``follower`` ended when :meth:`end` is called; it is not kept alive by that."""
        self._followers.add(follower)

    def end(self) -> None:
        """The server is being stopped: live connections end now, in the order of their protocols."""
        for follower in [*self._followers]:
            follower.end()

    @property
    def active(self) -> int:
        """Sessions that are open now."""
        return self._active

    @asynccontextmanager
    async def open(self, options: LiveOptions) -> AsyncIterator[LiveSession]:
        """A new session; it is closed, and what it held is freed, when the context is left.

        Raises:
            Overloaded: there are as many sessions as there may be.
        """
        with self.admit() as begin:
            async with begin(options) as session:
                yield session

    @contextmanager
    def admit(self) -> Iterator[Callable[[LiveOptions], LiveSession]]:
        """Hold a place for a client that has sessions one after another; gives what begins one.

        Each session has to be closed before the next one begins, and before the context is left. For as
        long as they are told apart in the same way, speakers keep their numbers from one to the next.

        Raises:
            Overloaded: there are as many sessions as there may be.
        """
        if self._active >= self._max_sessions:
            raise Overloaded(
                f"The server holds {self._active} live sessions, its limit; please try again later.",
                _RETRY_AFTER_SECONDS,
            )
        protocol = _protocol()
        self._count(protocol, 1)
        speakers = _Speakers(self._tuning)
        try:
            yield lambda options: self._session(options, speakers.told_apart(options.speakers))
        finally:
            self._count(protocol, -1)

    def _session(self, options: LiveOptions, speakers: LiveSpeakers | None) -> LiveSession:
        session_id = uuid.uuid4().hex
        model = options.recognition.model or self.models.default.id
        given = self._graph, options, session_id, self._finisher, speakers
        if self._metrics is None:
            return FollowedSession(LiveSession(*given), model, session_id)
        return FollowedSession(
            MeasuredSession(*given, metrics=self._metrics, protocol=_protocol()), model, session_id
        )

    def _count(self, protocol: str, change: int) -> None:
        self._active += change
        self._by_protocol[protocol] += change
        if self._metrics is not None:
            self._metrics.sessions(protocol, self._by_protocol[protocol])


def _protocol() -> str:
    """What the client speaks on whose behalf this runs."""
    activity = current_activity()
    return "" if activity is None else activity.protocol


class _Speakers:
    """Those of a client's sessions."""

    def __init__(self, tuning: SpeakerTuning) -> None:
        self._tuning = tuning
        self._options: SpeakerOptions | None = None
        self._speakers: LiveSpeakers | None = None

    def told_apart(self, options: SpeakerOptions | None) -> LiveSpeakers | None:
        if options != self._options:
            self._options = options
            self._speakers = None if options is None else LiveSpeakers(options, self._tuning)
        return self._speakers
