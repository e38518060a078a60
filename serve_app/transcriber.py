"""One uploaded recording: admission, decoding, the file pipeline. What every HTTP protocol calls."""

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import BinaryIO

from deployments.messages import SAMPLE_RATE, VadOptions
from serve_app.audio.decode import DecodeLimits, RawPcm, decode_blocks
from serve_app.errors import InvalidParameter, Overloaded
from serve_app.pipeline.file import FileJob, FileOptions, in_thread
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.segments import SegmentLimits
from serve_app.pipeline.types import Transcript
from serve_app.settings import Settings

BLOCK_SECONDS = 30
"""Audio that is decoded, stored and searched for speech at a time."""

_LANGUAGES = {"zh": "zh", "chinese": "zh", "mandarin": "zh", "cmn": "zh", "en": "en", "english": "en"}
_RETRY_AFTER_SECONDS = 2


class Transcriber:
    """Turns files into transcripts; refuses more than ``max_concurrent_files`` at once."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self._graph = graph
        self._max_files = settings.max_concurrent_files
        self._active = 0
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

    async def transcribe(
        self, source: BinaryIO, *, raw: RawPcm | None = None, language: str | None = None
    ) -> Transcript:
        """Transcribe a file.

        Args:
            source: seekable file in any format that is decoded here; read on a thread.
            raw: how to read it if it is PCM without a header.
            language: ISO 639-1 code or English name, ``None`` to tell by what is said.

        Raises:
            AsrError: see :mod:`serve_app.errors`.
        """
        code = _language_code(language)
        blocks = decode_blocks(
            source, raw=raw, block_samples=BLOCK_SECONDS * SAMPLE_RATE, limits=self._limits
        )
        async with aclosing(in_thread(blocks)) as decoded:
            return await FileJob(self._graph, self._options).transcript(decoded, code)


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
