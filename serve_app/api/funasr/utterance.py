"""One utterance: its audio up to the message that ends it, and the two ways to recognize it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, Literal, Protocol, cast

from starlette.datastructures import UploadFile

from deployments.messages import StreamOptions
from serve_app.api.funasr.containers import HEAD, LiveAudio, is_headerless
from serve_app.api.funasr.narration import Narration
from serve_app.api.funasr.replies import Reply, hotwords_told, result, spaced, spoken_in, tones_told
from serve_app.api.funasr.wire import ClientMessage, Config
from serve_app.api.hotwords import HotwordsTold, transcript_report
from serve_app.api.sockets import TOO_BIG, TRY_AGAIN_LATER
from serve_app.audio.decode import RawPcm
from serve_app.errors import AsrError, AudioTooLarge, InvalidParameter, Overloaded
from serve_app.live import LiveService
from serve_app.models import ServedModel
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.live.events import LiveOptions
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Transcript
from serve_app.rendering.tones import raw_text
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber, TranscriptionOptions

_MIB = 1 << 20
_IN_MEMORY = _MIB
_READ = 1 << 16
_SAMPLE_BYTES = 2


class HangUp(Exception):
    """The connection has to be closed, with a WebSocket close code; ``error`` is told before."""

    def __init__(self, code: int, reason: str, error: AsrError | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.error = error


class Conversation(Protocol):
    """The connection, as an utterance sees it."""

    @property
    def config(self) -> Config: ...

    @property
    def owner(self) -> str:
        """Whose enrolled voices are known."""
        ...

    async def receive(self) -> bytes | ClientMessage:
        """The next audio or message; raises :class:`HangUp` if none comes."""
        ...

    def apply(self, message: ClientMessage) -> None:
        """Let a message change ``config``; raises :class:`InvalidParameter`."""
        ...

    async def send(self, reply: Reply) -> None: ...


@dataclass(frozen=True, slots=True)
class Recognizers:
    """What an utterance is recognized with."""

    settings: Settings
    transcriber: Transcriber
    live: LiveService
    speakers: SpeakerService

    def model(self, config: Config) -> ServedModel:
        """Whom a client asks for; raises :class:`ModelNotFound`."""
        return self.live.models.find(config.model)

    def defaults(self, config: Config) -> LiveOptions:
        """How a live session listens by the model of a config.

        Raises:
            InvalidParameter: the model cannot be told what the config says of language or context.
            ModelNotFound: there is no such model.
        """
        return self.live.options(self.model(config), config.spoken, config.context, config.words_to_hear)


class Utterance:
    """Begins with its first audio; its mode is that of the config then.

    Where no config had named a mode by then, one that comes before the end still may.
    """

    def __init__(self, conversation: Conversation, recognizers: Recognizers, first: bytes) -> None:
        self._talk = conversation
        self._by = recognizers
        self._first = first
        self.end: ClientMessage | None = None
        """The message that ended it, once it came."""

    async def recognize(self) -> None:
        """Send all results, of which the last one has ``is_final`` set.

        Raises:
            AsrError: told to nobody yet; no final result was sent.
            HangUp: the connection cannot go on.
        """
        mode = self._talk.config.mode
        if mode is None or mode == "offline":
            await self._recognize_file()
        else:
            await self._recognize_live(mode, self._frames())

    async def _frames(self) -> AsyncIterator[bytes]:
        """The audio up to the end; nothing (``b""``) where a message changed the config."""
        yield self._first
        while self.end is None:
            message = await self._talk.receive()
            if isinstance(message, bytes):
                yield message
                continue
            if message.ends:
                self.end = message
            self._talk.apply(message)
            yield b""

    async def _recognize_file(self) -> None:
        is_undecided = self._talk.config.mode is None
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            # UploadFile moves the writes to a thread once the file lies on disk.
            file = UploadFile(cast("BinaryIO", spool), size=0)
            frames = self._frames()
            async for frame in frames:
                await self._append(file, frame)
                mode = self._talk.config.mode
                if is_undecided and mode is not None and mode != "offline":
                    await self._recognize_live(mode, _continued(file, frames))
                    return
            await self._transcribe(file)

    async def _append(self, file: UploadFile, frame: bytes) -> None:
        limit = self._by.settings.max_audio_bytes
        if (file.size or 0) + len(frame) > limit:
            error = AudioTooLarge(
                f"The recording is larger than {limit / _MIB:g} MB, which is the most that this server takes."
            )
            raise HangUp(TOO_BIG, error.message, error)
        await file.write(frame)

    async def _transcribe(self, file: UploadFile) -> None:
        config, size = self._talk.config, file.size or 0
        await file.seek(0)
        raw = RawPcm(config.audio_fs) if is_headerless(config, await file.read(HEAD)) else None
        options = TranscriptionOptions(
            raw=raw,
            text=config.text_options(self._by.model(config)),
            hotwords=config.words_to_hear,
            model=config.model,
            language=config.spoken if self._by.model(config).hears_languages else config.language,
            context=config.context,
        )
        if raw is not None:
            if size < self._by.settings.min_audio_duration_sec * raw.sample_rate * _SAMPLE_BYTES:
                await self._talk.send(result("offline", "", final=True, **self._hotwords(options)))
                return
            file.file.truncate(size - size % _SAMPLE_BYTES)
        with _admission(), self._by.transcriber.admit():
            options = replace(options, speakers=await self._speakers())
            transcript = await self._by.transcriber.transcribe(file.file, options)
        told = {} if options.speakers is None else spoken_in(transcript.sentences)
        told = {**tones_told(transcript), **told, **self._hotwords(options, transcript)}
        text = raw_text(transcript) if config.raw_tags else spaced(transcript.text)
        reply = result("offline", text, final=True, words=transcript.words, **told)
        await self._talk.send(reply)

    def _hotwords(self, options: TranscriptionOptions, *transcripts: Transcript) -> Reply:
        return hotwords_told(transcript_report(self._by.live.models, options, transcripts))

    async def _speakers(self) -> SpeakerOptions | None:
        """How speakers are told apart, if the client asked for it."""
        asked = self._talk.config.speakers
        return None if asked is None else await asked.options(self._by.speakers, self._talk.owner)

    async def _recognize_live(self, mode: Literal["online", "2pass"], frames: AsyncIterator[bytes]) -> None:
        audio = LiveAudio(self._talk.config)
        async with AsyncExitStack() as stack:
            options = self._options(mode, await self._speakers())
            with _admission():
                session = await stack.enter_async_context(self._by.live.open(options))
            told = HotwordsTold(options)
            speakers, raw = options.speakers is not None, self._talk.config.raw_tags
            narration = Narration(mode, speakers=speakers, hotwords=told, raw=raw)
            await _together(_feed(session, audio, frames), self._tell(session, narration))

    def _options(self, mode: Literal["online", "2pass"], speakers: SpeakerOptions | None) -> LiveOptions:
        config = self._talk.config
        model = self._by.model(config)
        if mode == "online" and config.model and not model.hears_live:
            raise InvalidParameter(
                f"The model {model.id} hears finished sentences only; use the mode '2pass' or 'offline'.",
                "mode",
            )
        defaults = self._by.defaults(config)
        stream = config.stream_options(
            StreamOptions(
                defaults.chunk_size, defaults.encoder_chunk_look_back, defaults.decoder_chunk_look_back
            )
        )
        return replace(
            defaults,
            two_pass=mode == "2pass",
            # Online results are strung together by the client: a mark would be in the way of what follows,
            # and what was sent of a number as it was spoken cannot be taken back.
            text=config.text_options(model) if mode == "2pass" else TextOptions(punctuation=False),
            chunk_size=stream.chunk_size,
            encoder_chunk_look_back=stream.encoder_chunk_look_back,
            decoder_chunk_look_back=stream.decoder_chunk_look_back,
            speakers=speakers,
        )

    async def _tell(self, session: LiveSession, narration: Narration) -> None:
        async for event in session.events():
            reply = narration.tell(event)
            if reply is not None:
                await self._talk.send(reply)


async def _feed(session: LiveSession, audio: LiveAudio, frames: AsyncIterator[bytes]) -> None:
    async for frame in frames:
        if frame:
            await session.push(audio.feed(frame))
    await session.push(audio.flush())
    await session.finish()


async def _continued(file: UploadFile, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was put aside, then what still comes."""
    await file.seek(0)
    while piece := await file.read(_READ):
        yield piece
    async for frame in frames:
        yield frame


@contextmanager
def _admission() -> Iterator[None]:
    """Turns a refusal into the end of the connection: the client is to come back later."""
    try:
        yield
    except Overloaded as error:
        raise HangUp(TRY_AGAIN_LATER, error.message, error) from error


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Do all of ``work``; the first error ends the rest of it and is raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
