"""Orders for recordings.

API: https://help.aliyun.com/zh/model-studio/paraformer-recorded-speech-recognition-restful-api
"""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from serve_app.api.dashscope.parsing import parse, parse_object
from serve_app.api.dashscope.wire import Resources, TaskParameters
from serve_app.errors import InvalidParameter
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.speakers.types import MOST_SPEAKERS
from serve_app.transcriber import TranscriptionOptions

PROTOCOL = "dashscope"

_MAX_FILES = 100
_LONGEST_URL = 4096


class _Parameters(TaskParameters):
    channel_id: list[int] = Field(default_factory=lambda: [0], min_length=1, max_length=8)
    diarization_enabled: bool = False
    speaker_count: int | None = Field(None, ge=1, le=100)
    language: str | None = None

    @property
    def spoken(self) -> str | None:
        """The language, if only one may be spoken: the model tells several apart by itself."""
        hints = [self.language] if self.language else self.language_hints
        return hints[0] if len(hints) == 1 else None

    @property
    def known_speakers(self) -> int | None:
        """DashScope takes the count for advice: above what can be told apart here, it is none."""
        count = self.speaker_count
        return count if count is not None and count <= MOST_SPEAKERS else None


class _Input(BaseModel):
    file_urls: list[str] = Field(min_length=1, max_length=_MAX_FILES)

    @field_validator("file_urls")
    @classmethod
    def _web_addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if len(url) > _LONGEST_URL or not _is_web_address(url):
                raise ValueError("each must be the http or https URL of a recording")
        return urls


class _Order(Resources):
    model: str
    input: _Input
    parameters: _Parameters = Field(default_factory=_Parameters)


@dataclass(frozen=True, slots=True)
class SpeakersWanted:
    """Whether speakers shall be told apart, and how many there are, if that is known."""

    wanted: bool = False
    count: int | None = None


def read_order(text: str) -> tuple[list[JobSpec], SpeakersWanted]:
    """A job for each recording of an order, and what it says of speakers.

    Raises:
        InvalidParameter: naming what cannot be.
    """
    fields = parse_object(text)
    parameters = fields.get("parameters")
    if isinstance(parameters, dict):
        fields["parameters"] = {name: value for name, value in parameters.items() if value is not None}
    order = parse(_Order, fields)
    wanted = order.parameters
    channels = sorted(set(wanted.channel_id))
    if channels[0] < 0:
        raise InvalidParameter("Channels are counted from 0.", "parameters.channel_id")
    hotwords = order.hotwords(wanted)
    options = TranscriptionOptions(
        language=wanted.spoken,
        text=wanted.text_options(order.corrections),
        hotwords=hotwords.words,
        model=order.model,
        speech_noise_threshold=wanted.speech_noise_threshold,
    )
    specs = [
        JobSpec(
            options=options,
            split_channels=True,
            first_channel_only=channels == [0],
            url=url,
            protocol=PROTOCOL,
            extra={"channels": json.dumps(channels), **hotwords.extra},
        )
        for url in order.input.file_urls
    ]
    return specs, SpeakersWanted(wanted.diarization_enabled, wanted.known_speakers)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
