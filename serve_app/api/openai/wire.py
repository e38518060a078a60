"""Request parameters of ``/v1/audio/*``, under the names that OpenAI's SDKs give them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from serve_app.api.openai.chunking import ChunkingStrategy, chunking_value
from serve_app.api.openai.forms import Form
from serve_app.api.openai.hints import hints_in
from serve_app.api.openai.speakers import SPEAKER_COUNTS, SpeakerFields
from serve_app.audio.decode import RawPcm
from serve_app.errors import InvalidParameter
from serve_app.models import ServedModel
from serve_app.pipeline.finishing import ARROW, TextOptions, parse_corrections
from serve_app.pipeline.hotwords import Hotword, HotwordList, checked
from serve_app.pipeline.hotwords_parsing import parse_hotwords, whole_words
from serve_app.rendering.openai import DEFAULT_GRANULARITIES, Granularity
from serve_app.transcriber import Transcriber, TranscriptionOptions

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"]

LIST_FIELDS = frozenset(
    {
        "timestamp_granularities",
        "include",
        "languages",
        "keywords",
        "known_speaker_names",
        "known_speaker_references",
        "corrections",
    }
)
"""Fields that may be sent more than once; all of their values count, of others the last one."""

_VERBOSE = frozenset({"audio_address", "enable_speaker_diarization", "word_timestamps", *SPEAKER_COUNTS})
"""Fields of funasr-api, whose clients expect its default of ``verbose_json``, and those about speakers, which
``json`` has no place for."""

_PLAIN_TEXT = frozenset({"text", "srt", "vtt"})


class TranscriptionForm(SpeakerFields):
    """The fields of a transcription beside ``file``, as a request and a job have them."""

    model: str = Field(
        "", description="A model of `GET /v1/models`; names that are not served here mean the default one."
    )
    audio_address: str | None = Field(
        None,
        max_length=8192,
        description="URL (http or https) of the recording, in place of `file`.",
        json_schema_extra={"format": "uri"},
    )
    language: str | None = Field(
        None,
        description="What is spoken: an ISO 639-1 code such as `zh`, or a name such as `Chinese`; `auto`: "
        "told by what is said.",
    )
    languages: list[str] = Field(
        default_factory=list,
        description="What may be spoken: one is the same as `language`, several are told apart by what is "
        "said. The answer then has `languages`.",
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="Default `json`, or `verbose_json` where `timestamp_granularities[]`, `word_timestamps`, "
        "`audio_address` or something about speakers is given.",
    )
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list, description="What `verbose_json` holds; default `segment`."
    )
    word_timestamps: bool | None = Field(None, description="The same as the granularity `word`.")
    include: list[Literal["logprobs"]] = Field(
        default_factory=list,
        description="`logprobs`: the log-probability of each token, in formats that are JSON and in events.",
    )
    stream: bool = Field(
        False, description="Answer with server-sent events as sentences are finished; not with srt and vtt."
    )
    prompt: str | None = Field(
        None,
        description="Words to listen for, with commas or line breaks between them. Models that read context "
        "(Qwen3-ASR) read all of it; for others, prose has no effect.",
    )
    keywords: list[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=list, description="Words to listen for, or corrections (`wrong=>right`)."
    )
    hotwords: Annotated[HotwordList, BeforeValidator(parse_hotwords, json_schema_input_type=str)] = Field(
        default_factory=HotwordList,
        description='Words to listen for, with weights from 1 to 100: as JSON (`{"word": 20}`), or as words '
        "with their weights behind them.",
    )
    corrections: list[str] = Field(
        default_factory=list, description="`wrong=>right`, each in a field or on a line of its own."
    )
    temperature: float = Field(0, ge=0, le=1, description="Accepted; recognition is deterministic.")
    chunking_strategy: Annotated[ChunkingStrategy, BeforeValidator(chunking_value)] | None = None
    punctuation: bool = Field(True, description="Whether the text has punctuation marks.")
    itn: bool = Field(True, description="Numbers, dates, money and the like in digits.")
    drop_fillers: bool = Field(False, description="Leave out 嗯, 呃, uh and the like.")
    raw_tags: bool = Field(
        False,
        description="Also what the model wrote, with its tags, such as SenseVoice's `<|zh|><|NEUTRAL|>`: "
        "in `raw_text` where the answer is JSON, in place of the text with `response_format=text`.",
    )
    format: Literal["pcm"] | None = Field(
        None, description="`pcm`: the file is 16-bit little-endian mono PCM without a header."
    )
    sample_rate: int = Field(16000, ge=4000, le=192000, description="Samples per second, for `format=pcm`.")

    @field_validator("include")
    @classmethod
    def _fits_the_format(cls, include: list[str], info: ValidationInfo) -> list[str]:
        if include and info.data.get("response_format") in _PLAIN_TEXT and not info.data.get("stream"):
            raise ValueError(f"response_format={info.data['response_format']} has no place for it")
        return include

    @field_validator("stream")
    @classmethod
    def _can_be_streamed(cls, stream: bool, info: ValidationInfo) -> bool:
        if stream and info.data.get("response_format") in ("srt", "vtt"):
            raise ValueError("subtitles are not streamed; ask for json, text, verbose_json or diarized_json")
        return stream

    @field_validator("raw_tags")
    @classmethod
    def _has_a_place(cls, raw_tags: bool, info: ValidationInfo) -> bool:
        if raw_tags and info.data.get("response_format") in ("srt", "vtt"):
            raise ValueError("subtitles have no tags; ask for json, text, verbose_json or diarized_json")
        return raw_tags

    @field_validator("corrections")
    @classmethod
    def _are_corrections(cls, lines: list[str]) -> list[str]:
        parse_corrections(lines)
        return lines

    @field_validator("keywords")
    @classmethod
    def _are_hotwords(cls, lines: list[str]) -> list[str]:
        whole_words(lines)
        return lines

    @field_validator("prompt")
    @classmethod
    def _holds_hotwords(cls, prompt: str | None) -> str | None:
        hints_in(prompt or "")
        return prompt

    @property
    def effective_format(self) -> ResponseFormat:
        """The format asked for, or the default for a request of its kind."""
        if self.response_format is not None:
            return self.response_format
        verbose = self.timestamp_granularities or self.model_fields_set & _VERBOSE or self.by_channel
        return "verbose_json" if verbose else "json"

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """What ``verbose_json`` shall hold."""
        wanted: tuple[Granularity, ...] = tuple(self.timestamp_granularities) or DEFAULT_GRANULARITIES
        return (*wanted, "word") if self.word_timestamps else wanted

    @property
    def logprobs(self) -> bool:
        return "logprobs" in self.include

    @property
    def shows_times(self) -> bool:
        """Whether the answer has a place for times."""
        return self.effective_format not in ("json", "text")

    @property
    def shows_speakers(self) -> bool:
        if self.effective_format == "verbose_json":
            return self.stream or "segment" in self.granularities
        return self.effective_format in ("srt", "vtt", "diarized_json")

    @property
    def always_speakers(self) -> bool:
        return self.effective_format == "diarized_json"

    def transcription_options(self) -> TranscriptionOptions:
        """What is asked for, in the service's own terms; whether it can be served is not checked.

        Raises:
            InvalidParameter: there are too many hotwords in all.
        """
        prompt = self.prompt or ""
        lists = (self.hotwords, whole_words(self.keywords), hints_in(prompt))
        chunking = self.chunking_strategy
        return TranscriptionOptions(
            language=self.language or (self.languages[0] if len(self.languages) == 1 else None),
            raw=RawPcm(self.sample_rate) if self.format == "pcm" else None,
            text=TextOptions(
                punctuation=self.punctuation,
                itn=self.itn,
                corrections=(
                    *parse_corrections(self.corrections),
                    *(correction for found in lists for correction in found.corrections),
                ),
                drop_fillers=self.drop_fillers,
            ),
            hotwords=_together(lists),
            context="\n".join(line for line in prompt.splitlines() if ARROW not in line),
            word_times=self.shows_times,
            end_silence_ms=chunking.end_silence_ms if chunking else None,
            speech_noise_threshold=chunking.speech_noise_threshold if chunking else None,
        )

    def checked_options(self, transcriber: Transcriber) -> TranscriptionOptions:
        """:meth:`transcription_options` that can be served.

        Raises:
            InvalidParameter: they cannot; it names the field as it was sent.
        """
        sent = {
            "language": "language" if self.language else "languages",
            "end_silence_ms": "chunking_strategy[silence_duration_ms]",
        }
        model = transcriber.models.meant(self.model)
        options = replace(self.transcription_options(), model=model.id)
        try:
            if options.language is None and self.languages:
                self._check_languages(model)
            return transcriber.check(options)
        except InvalidParameter as error:
            raise InvalidParameter(error.message, sent.get(error.param or "", error.param)) from error

    def _check_languages(self, model: ServedModel) -> None:
        """Of several, one that is recognized is enough: the others may not be spoken at all."""
        refused = None
        for language in self.languages:
            try:
                model.code_of(language)
            except InvalidParameter as error:
                refused = error
            else:
                return
        if refused is not None:
            raise refused


def _together(lists: Iterable[HotwordList]) -> tuple[Hotword, ...]:
    try:
        return checked(word for found in lists for word in found.words)
    except ValueError as error:
        raise InvalidParameter(f"The hotwords are not valid: {error}.", "hotwords") from error


class RequestForm(TranscriptionForm):
    """The fields of a transcription that is answered at once."""

    channels: Literal["mix", "speakers"] = Field(
        "mix", description="`speakers`: each channel is one speaker, as in recorded calls; `mix`: their mean."
    )

    @property
    def by_channel(self) -> bool:
        return self.channels == "speakers"


class TranslationForm(Form):
    """The fields of a translation beside ``file``."""

    model: str = Field("", description="Any name.")
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float = Field(0, ge=0, le=1)
