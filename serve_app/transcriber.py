"""One uploaded recording: admission, decoding, the file pipeline. What every HTTP protocol calls."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import BinaryIO

from deployments.messages import SAMPLE_RATE, Pcm, Priority, RecognitionOptions, VadOptions
from serve_app.activity import note_audio, note_file, note_files, note_model, note_transcribed
from serve_app.audio.decode import DecodeLimits, decode_blocks
from serve_app.errors import AsrError, InvalidParameter, Overloaded
from serve_app.models import ServedModels
from serve_app.pipeline.file import Checkpoints, FileJob, FileOptions, in_thread
from serve_app.pipeline.finishing import Finisher
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.hotwords import context_of
from serve_app.pipeline.hotwords_file import ServerHotwords
from serve_app.pipeline.segments import SegmentLimits
from serve_app.pipeline.speakers.channels import join_channels
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.types import Transcript
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model
from serve_app.stages import stage
from serve_app.transcription import (
    ChannelsTranscription,
    FileTranscription,
    Transcription,
    TranscriptionOptions,
)

__all__ = ["Transcriber", "Transcription", "TranscriptionOptions"]

BLOCK_SECONDS = 30
"""Audio that is decoded, stored and searched for speech at a time."""

BACKGROUND_BLOCK_SECONDS = 10
"""The same for jobs: what has begun is not interrupted, so it had better be short."""

_RETRY_AFTER_SECONDS = 2
_END_SILENCE_MS = (100, 6000)


class Transcriber:
    """Turns files into transcripts; refuses more than ``max_concurrent_files`` at once."""

    def __init__(self, graph: Graph, settings: Settings, tuning: SpeakerTuning | None = None) -> None:
        """``tuning`` is what the speaker model says of voices; ``None``: what is right for most."""
        self._graph = graph
        self.models = ServedModels(settings)
        self._hotwords = ServerHotwords(settings.hotwords_file)
        self._knows_voices = has_speaker_model(settings)
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
            tuning=tuning or SpeakerTuning(labels=settings.speaker_labels),
        )

    @property
    def active(self) -> int:
        """Files that hold a place now."""
        return self._active

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
        note_files(1)
        try:
            yield
        finally:
            self._active -= 1
            note_files(-1)

    def check(self, options: TranscriptionOptions) -> TranscriptionOptions:
        """``options`` with the id of the model and the language as a code, if they can be served.

        Raises:
            InvalidParameter: naming what cannot.
            ModelNotFound: there is no such model.
        """
        model = self.models.find(options.model)
        silence, (shortest, longest) = options.end_silence_ms, _END_SILENCE_MS
        if silence is not None and not shortest <= silence <= longest:
            raise InvalidParameter(
                f"The silence that ends speech must be {shortest} to {longest} ms, not {silence}.",
                "end_silence_ms",
            )
        if options.speakers is not None:
            self._check_speakers(options.speakers, options.channel)
        return replace(options, model=model.id, language=model.code_of(options.language))

    def _check_speakers(self, speakers: SpeakerOptions, channel: int | None) -> None:
        if speakers.by_channel:
            if channel is not None:
                raise InvalidParameter(
                    "Either one channel is taken, or each is taken as a speaker; not both.", "channel"
                )
        elif not self._knows_voices:
            raise InvalidParameter(
                "This server has no speaker model, so it cannot tell speakers apart; send the request "
                "without asking for them.",
                "enable_speaker_diarization",
            )

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
            checkpoints: what is known of it from an earlier run; not used where channels are speakers, since
                theirs are of one channel.
            in_flight: segments that may wait for recognition at once, in place of the setting.

        Raises:
            InvalidParameter, ModelNotFound: the options cannot be served.
        """
        options = self.check(options or TranscriptionOptions())
        began = time.monotonic()
        if options.speakers is not None and options.speakers.by_channel:

            def open_channel(of_channel: TranscriptionOptions) -> AbstractAsyncContextManager[Transcription]:
                return self._open(source, of_channel, None, in_flight)

            channels = ChannelsTranscription(source, open_channel, self._options.tuning, options)
            yield channels
            note_file(channels.seconds_decoded, time.monotonic() - began)
            return
        async with self._open(source, options, checkpoints, in_flight) as transcription:
            yield transcription
            # Only reached where nothing was raised, and nobody left.
            note_file(transcription.seconds_decoded, time.monotonic() - began)

    def join_channels(self, channels: Sequence[Transcript], language: str | None = None) -> Transcript:
        """One transcript of several of the same recording, each channel of which is one speaker.

        ``language`` (ISO 639-1) is what the client knows.
        """
        return join_channels(channels, self._options.tuning, language)

    @asynccontextmanager
    async def _open(
        self,
        source: BinaryIO,
        options: TranscriptionOptions,
        checkpoints: Checkpoints | None,
        in_flight: int | None,
    ) -> AsyncIterator[Transcription]:
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
            recognition=self._recognition(options),
            speakers=options.speakers,
        )
        note_model(options.model)
        async with aclosing(in_thread(blocks)) as read, aclosing(_followed(read)) as decoded:
            job = FileJob(self._graph, file_options, checkpoints)
            try:
                yield FileTranscription(job, decoded, self._finisher, options)
            finally:
                note_audio(job.seconds_decoded)
                note_transcribed()

    def _recognition(self, options: TranscriptionOptions) -> RecognitionOptions:
        model = self.models.find(options.model)
        asked, ours = options.hotwords, self._hotwords
        context = context_of(options.context, asked, ours.words) if model.reads_context else ""
        listens = model.hears_hotwords and not model.reads_context
        # Who spoke which word is told by when it was said.
        word_times = options.word_times or options.speakers is not None
        return RecognitionOptions(
            model.id,
            options.language,
            context,
            word_times,
            ours.merged(asked) if listens else (),
            options.text.itn,
        )

    async def transcribe(self, source: BinaryIO, options: TranscriptionOptions | None = None) -> Transcript:
        """Transcribe a file to its end; arguments and errors as those of :meth:`open`.

        Raises:
            AsrError: see :mod:`serve_app.errors`.
        """
        async with self.open(source, options) as transcription:
            return await transcription.transcript()


async def _followed(blocks: AsyncGenerator[Pcm, None]) -> AsyncGenerator[Pcm, None]:
    """The blocks of a recording. Decoding them is a stage: it lasts for as long as there are more, and works
    while one is waited for."""
    samples = 0
    decode = stage("decode")
    try:
        while True:
            with decode.working():
                block = await anext(blocks, None)
            if block is None:
                return
            samples += len(block)
            yield block
    except AsrError as error:
        decode.fail(error)
        raise
    finally:
        decode.set(audio_seconds=round(samples / SAMPLE_RATE, 3))
        decode.end()


_NO_LIMIT_MS = 24 * 3600 * 1000
"""Detection does not cut long speech by itself: the planner does, where it is quietest."""
