"""One recording while it is transcribed, and what a client may ask of it."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from deployments.messages import Pcm, Priority
from serve_app.audio.decode import AudioInfo, RawPcm, probe
from serve_app.errors import InvalidParameter
from serve_app.pipeline.file import FileJob
from serve_app.pipeline.finishing import Finisher, TextOptions
from serve_app.pipeline.hotwords import Hotword
from serve_app.pipeline.speakers.channels import MOST_CHANNELS, join_channels
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.stages import UNFOLLOWED, stage


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a client may ask of the transcription of one recording, in whatever protocol.

    Attributes:
        language: ISO 639-1 code or English name; ``None``, ``""`` and ``auto``: told by what is said.
        raw: how to read it if it is PCM without a header.
        channel: the channel to take (from 0); ``None``: the mean of all.
        hotwords: words to listen for, for models that can.
        model: id or alias of a served model; ``""``: the default one.
        context: plain text that helps, for models that read it.
        word_times: whether the answer shows the times of words or sentences.
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
    model: str = ""
    context: str = ""
    word_times: bool = True
    end_silence_ms: int | None = None
    speech_noise_threshold: float | None = None
    speakers: SpeakerOptions | None = None
    priority: Priority = Priority.REQUEST


class Transcription(ABC):
    """One recording while it is transcribed. Used once."""

    def __init__(self, language: str | None) -> None:
        """``language`` (ISO 639-1) is what the client knows."""
        self._named = language
        self._sentences: list[Sentence] = []

    @property
    def language(self) -> str | None:
        """What the client knows, else what the model heard so far; ``None`` if neither tells."""
        return self._named

    @property
    @abstractmethod
    def applied(self) -> tuple[str, ...]:
        """Texts of the hotwords that the model has listened for so far, each once."""

    @property
    @abstractmethod
    def raw(self) -> str | None:
        """What a model that writes tags wrote so far, with them."""

    @property
    @abstractmethod
    def seconds_decoded(self) -> float: ...

    @property
    @abstractmethod
    def seconds_done(self) -> float:
        """How much of the recording, from its begin, the sentences so far cover."""

    @property
    def so_far(self) -> Transcript:
        """All sentences that came out yet, of what is decoded; at the end, the whole.

        Who said them is known at the end only, if that is asked for: then sentences are also split where
        the speaker changes inside.
        """
        return Transcript.of(self.seconds_decoded, self._sentences, self.language, self.applied, self.raw)

    @abstractmethod
    def sentences(self) -> AsyncGenerator[Sentence, None]:
        """Yield the sentences in order, as they are finished, before it is known who said them.

        Raises:
            AsrError: see :mod:`serve_app.errors`. Leaving early cancels what is under way.
        """

    async def transcript(self) -> Transcript:
        """Run to the end. Raises what :meth:`sentences` raises."""
        async for _ in self.sentences():
            pass
        return self.so_far


class FileTranscription(Transcription):
    """One channel of a recording, or the mean of all."""

    def __init__(
        self, job: FileJob, blocks: AsyncIterator[Pcm], finisher: Finisher, options: TranscriptionOptions
    ) -> None:
        """``options`` with a language that is a code, or ``None``."""
        super().__init__(options.language)
        self._job = job
        self._blocks = blocks
        self._finisher = finisher
        self._text = options.text
        self._tells_speakers = options.speakers is not None

    @property
    def language(self) -> str | None:
        return self._named or self._job.language

    @property
    def applied(self) -> tuple[str, ...]:
        return self._job.applied

    @property
    def raw(self) -> str | None:
        return self._job.raw

    @property
    def seconds_decoded(self) -> float:
        return self._job.seconds_decoded

    @property
    def seconds_done(self) -> float:
        return self._job.seconds_done

    async def sentences(self) -> AsyncGenerator[Sentence, None]:
        finishing = stage("finishing", itn=self._text.itn)
        async with aclosing(self._job.sentences(self._blocks)) as recognized:
            async for sentence in recognized:
                text = self._text.suited(self.language)
                await self._finisher.prepare(text)
                with finishing.working():
                    parts = self._finisher.finish(sentence, text)
                for finished in parts:
                    self._sentences.append(finished)
                    yield finished
        finishing.end()
        with stage("speakers") if self._tells_speakers else UNFOLLOWED:
            self._sentences = [*await self._job.with_speakers(self._sentences, self.so_far.language)]


OpenChannel = Callable[[TranscriptionOptions], AbstractAsyncContextManager[Transcription]]
"""Begins to transcribe one channel of a recording."""


class ChannelsTranscription(Transcription):
    """A recording each channel of which is one speaker: one channel after the other, then what was said in
    the order of time. So its sentences come at the end only, and with their speakers."""

    def __init__(
        self,
        source: BinaryIO,
        open_channel: OpenChannel,
        tuning: SpeakerTuning,
        options: TranscriptionOptions,
    ) -> None:
        """``options`` with a language that is a code, or ``None``."""
        super().__init__(options.language)
        self._source = source
        self._open = open_channel
        self._tuning = tuning
        self._options = options
        self._channels = 1
        self._parts: list[Transcription] = []

    @property
    def language(self) -> str | None:
        return self._named or most_spoken((part.language, part.so_far) for part in self._parts)

    @property
    def applied(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for part in self._parts for text in part.applied))

    @property
    def raw(self) -> str | None:
        """Each channel on a line of its own."""
        written = [part.raw for part in self._parts if part.raw is not None]
        return "\n".join(written) if written else None

    @property
    def seconds_decoded(self) -> float:
        return max((part.seconds_decoded for part in self._parts), default=0.0)

    @property
    def seconds_done(self) -> float:
        return sum(part.seconds_done for part in self._parts) / self._channels

    async def sentences(self) -> AsyncGenerator[Sentence, None]:
        info = await asyncio.to_thread(probe, self._source, raw=self._options.raw)
        self._channels = speaker_channels(info)
        for channel in range(self._channels):
            async with self._open(replace(self._options, channel=channel, speakers=None)) as part:
                self._parts.append(part)
                await part.transcript()
        parts = [part.so_far for part in self._parts]
        whole = join_channels(parts, self._tuning, self.language)
        self._sentences = [*whole.sentences]
        for sentence in self._sentences:
            yield sentence


def most_spoken(channels: Iterable[tuple[str | None, Transcript]]) -> str | None:
    """The language in which most words were said, of channels and what the model heard in each."""
    words: Counter[str] = Counter()
    for language, transcript in channels:
        if language is not None:
            words[language] += len(transcript.words)
    return max(words, key=lambda code: words[code], default=None)


def speaker_channels(info: AudioInfo) -> int:
    """How many channels a recording has, if each of them may be a speaker.

    Raises:
        InvalidParameter: they are too many.
    """
    if info.channels > MOST_CHANNELS:
        raise InvalidParameter(
            f"The recording has {info.channels} channels; {MOST_CHANNELS} at most can be taken as speakers.",
            "channels",
        )
    return info.channels
