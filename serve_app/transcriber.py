"""One uploaded recording: admission, decoding, the file pipeline. What every HTTP protocol calls."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from deployments.messages import SAMPLE_RATE, Pcm, Priority, VadOptions
from serve_app.audio.decode import DecodeLimits, RawPcm, decode_blocks
from serve_app.errors import InvalidParameter, Overloaded
from serve_app.pipeline.file import Checkpoints, FileJob, FileOptions, in_thread
from serve_app.pipeline.finishing import Finisher, TextOptions
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.hotwords import Hotword
from serve_app.pipeline.segments import SegmentLimits
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.settings import Settings

BLOCK_SECONDS = 30
"""Audio that is decoded, stored and searched for speech at a time."""

BACKGROUND_BLOCK_SECONDS = 10
"""The same for jobs: what has begun is not interrupted, so it had better be short."""

_LANGUAGES = {"zh": "zh", "chinese": "zh", "mandarin": "zh", "cmn": "zh", "en": "en", "english": "en"}
_RETRY_AFTER_SECONDS = 2
_END_SILENCE_MS = (100, 6000)


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a client may ask of the transcription of one recording, in whatever protocol.

    Attributes:
        language: ISO 639-1 code or English name; ``None``, ``""`` and ``auto``: told by what is said.
        raw: how to read it if it is PCM without a header.
        channel: the channel to take (from 0); ``None``: the mean of all.
        hotwords: words to listen for, for models that can.
        end_silence_ms: silence after which speech counts as ended, in milliseconds; ``None``: the setting.
        speech_noise_threshold: see :class:`deployments.messages.VadOptions`.
        speakers: tell speakers apart, and how; ``None``: nobody asks who speaks.
        priority: before or after what else is waiting.
    """

    language: str | None = None
    raw: RawPcm | None = None
    channel: int | None = None
    text: TextOptions = field(default_factory=TextOptions)
    hotwords: tuple[Hotword, ...] = ()
    end_silence_ms: int | None = None
    speech_noise_threshold: float | None = None
    speakers: SpeakerOptions | None = None
    priority: Priority = Priority.REQUEST


class Transcription:
    """One recording while it is transcribed. Used once."""

    def __init__(
        self, job: FileJob, blocks: AsyncIterator[Pcm], finisher: Finisher, options: TranscriptionOptions
    ) -> None:
        """``options`` with a language that is a code, or ``None``."""
        self._job = job
        self._blocks = blocks
        self._finisher = finisher
        self._options = options
        self._sentences: list[Sentence] = []

    @property
    def seconds_decoded(self) -> float:
        return self._job.seconds_decoded

    @property
    def seconds_done(self) -> float:
        """How much of the recording, from its begin, the sentences so far cover."""
        return self._job.seconds_done

    @property
    def so_far(self) -> Transcript:
        """All sentences that came out yet, of what is decoded; at the end, the whole."""
        return Transcript.of(self.seconds_decoded, self._sentences, self._options.language)

    async def sentences(self) -> AsyncGenerator[Sentence, None]:
        """Yield the sentences in order, as they are finished.

        Raises:
            AsrError: see :mod:`serve_app.errors`. Leaving early cancels what is under way.
        """
        async with aclosing(self._job.sentences(self._blocks)) as recognized:
            async for sentence in recognized:
                await self._finisher.prepare(self._options.text)
                for finished in self._finisher.finish(sentence, self._options.text):
                    self._sentences.append(finished)
                    yield finished

    async def transcript(self) -> Transcript:
        """Run to the end. Raises what :meth:`sentences` raises."""
        async for _ in self.sentences():
            pass
        return self.so_far


class Transcriber:
    """Turns files into transcripts; refuses more than ``max_concurrent_files`` at once."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self._graph = graph
        self._max_files = settings.max_concurrent_files
        self._active = 0
        self._finisher = Finisher()
        self._limits = DecodeLimits(
            min_seconds=settings.min_audio_duration_sec, max_seconds=settings.max_audio_duration_sec
        )
        self._options = FileOptions(
            segments=SegmentLimits(
                merge=settings.merge_segment_sec,
                longest=settings.max_segment_sec,
                silence=settings.split_silence_sec,
            ),
            vad=VadOptions(max_end_silence_ms=settings.vad_end_silence_ms, max_span_ms=_NO_LIMIT_MS),
            in_flight=settings.segments_in_flight,
        )

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place for one file; taken before its upload is read, so that overload is told early.

        Raises:
            Overloaded: all places are taken.
        """
        if self._active >= self._max_files:
            raise Overloaded(
                f"The server is working on {self._active} files, its limit; please try again later.",
                _RETRY_AFTER_SECONDS,
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    def check(self, options: TranscriptionOptions) -> TranscriptionOptions:
        """``options`` with its language as a code, if they can be served.

        Raises:
            InvalidParameter: naming what cannot.
        """
        silence, (shortest, longest) = options.end_silence_ms, _END_SILENCE_MS
        if silence is not None and not shortest <= silence <= longest:
            raise InvalidParameter(
                f"The silence that ends speech must be {shortest} to {longest} ms, not {silence}.",
                "end_silence_ms",
            )
        return replace(options, language=_language_code(options.language))

    @asynccontextmanager
    async def open(
        self,
        source: BinaryIO,
        options: TranscriptionOptions | None = None,
        checkpoints: Checkpoints | None = None,
        in_flight: int | None = None,
    ) -> AsyncIterator[Transcription]:
        """Begin to transcribe a file; what is under way is cancelled when the context is left.

        Args:
            source: seekable file in any format that is decoded here; read on a thread.
            checkpoints: what is known of it from an earlier run.
            in_flight: segments that may wait for recognition at once, in place of the setting.

        Raises:
            InvalidParameter: the options cannot be served.
        """
        options = self.check(options or TranscriptionOptions())
        background = options.priority is Priority.BACKGROUND
        blocks = decode_blocks(
            source,
            raw=options.raw,
            channel=options.channel,
            block_samples=(BACKGROUND_BLOCK_SECONDS if background else BLOCK_SECONDS) * SAMPLE_RATE,
            limits=self._limits,
        )
        vad = self._options.vad
        file_options = replace(
            self._options,
            vad=replace(
                vad,
                max_end_silence_ms=options.end_silence_ms or vad.max_end_silence_ms,
                speech_noise_threshold=options.speech_noise_threshold,
            ),
            in_flight=in_flight or self._options.in_flight,
            priority=options.priority,
        )
        async with aclosing(in_thread(blocks)) as decoded:
            job = FileJob(self._graph, file_options, checkpoints)
            yield Transcription(job, decoded, self._finisher, options)

    async def transcribe(self, source: BinaryIO, options: TranscriptionOptions | None = None) -> Transcript:
        """Transcribe a file to its end; arguments and errors as those of :meth:`open`.

        Raises:
            AsrError: see :mod:`serve_app.errors`.
        """
        async with self.open(source, options) as transcription:
            return await transcription.transcript()


_NO_LIMIT_MS = 24 * 3600 * 1000
"""Detection does not cut long speech by itself: the planner does, where it is quietest."""


def _language_code(language: str | None) -> str | None:
    if language is None or language.lower() in ("", "auto"):
        return None
    code = _LANGUAGES.get(language.lower().replace("_", "-").split("-")[0])
    if code is None:
        raise InvalidParameter(
            f"The language {language!r} is not one that the loaded model recognizes; it knows zh and en.",
            "language",
        )
    return code
