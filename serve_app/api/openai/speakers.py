"""What a form of ``/v1`` may say of speakers, and what comes of it."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from serve_app.api.openai.data_urls import is_audio_data_url
from serve_app.api.openai.forms import Form
from serve_app.errors import InvalidParameter
from serve_app.pipeline.speakers.types import MOST_SPEAKERS, SpeakerOptions
from serve_app.services import Services
from serve_app.speaker_tuning import has_speaker_model

SPEAKER_COUNTS = ("num_speakers", "min_speakers", "max_speakers")

_MOST_KNOWN = 4

_Count = Annotated[int, Field(ge=1, le=MOST_SPEAKERS)]


class SpeakerFields(Form):
    """The fields about speakers. A subclass tells whether its answer has a place for them."""

    enable_speaker_diarization: bool | None = Field(
        None,
        description="Whether speakers are told apart. Default: as the server is set, where the format shows "
        "them, and always for `diarized_json`.",
    )
    num_speakers: _Count | None = Field(None, description="How many speakers there are, if that is known.")
    min_speakers: _Count | None = Field(None, description="There are at least so many.")
    max_speakers: _Count | None = Field(None, description="There are so many at most.")
    known_speaker_names: list[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=list, max_length=_MOST_KNOWN, description="Speakers whose voices are looked for."
    )
    known_speaker_references: list[str] = Field(
        default_factory=list,
        max_length=_MOST_KNOWN,
        validate_default=True,
        description="A recording (data URL) of each of the names, in their order: some seconds of the voice.",
    )

    @field_validator("max_speakers")
    @classmethod
    def _not_below_the_least(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_speakers")
        if most is not None and least is not None and most < least:
            raise ValueError(f"it is below min_speakers, which is {least}")
        return most

    @field_validator("known_speaker_references")
    @classmethod
    def _belong_to_names(cls, references: list[str], info: ValidationInfo) -> list[str]:
        names = info.data.get("known_speaker_names")
        if names is None:
            return references
        if len(names) != len(references):
            raise ValueError(f"there must be one for each name, not {len(references)} for {len(names)}")
        for reference in references:
            if not is_audio_data_url(reference):
                raise ValueError("each must be a data URL with a recording in base64")
        return references

    @property
    def by_channel(self) -> bool:
        """Whether each channel of the recording is a speaker."""
        return False

    @property
    def shows_speakers(self) -> bool:
        """Whether the answer has a place for speakers."""
        return False

    @property
    def always_speakers(self) -> bool:
        """Whether the answer is about speakers."""
        return False


async def speaker_options(services: Services, owner: str, form: SpeakerFields) -> SpeakerOptions | None:
    """How the speakers of a recording shall be told apart, ``None`` if they shall not.

    ``owner``: the id of the client, whose enrolled voices are looked for.

    Raises:
        AsrError: as :meth:`serve_app.speakers.SpeakerService.options`.
        InvalidParameter: ``channels=speakers`` where speakers shall not be told apart.
    """
    wanted = form.enable_speaker_diarization
    if form.by_channel and wanted is False:
        raise InvalidParameter(
            "channels=speakers tells speakers apart, and enable_speaker_diarization=false asks not to.",
            "channels",
        )
    if wanted is None and form.always_speakers and has_speaker_model(services.settings):
        wanted = True
    return await services.speakers.options(
        owner,
        wanted=wanted,
        shown=form.shows_speakers,
        count=form.num_speakers,
        least=form.min_speakers,
        most=form.max_speakers,
        references=list(zip(form.known_speaker_names, form.known_speaker_references, strict=True)),
        by_channel=form.by_channel,
    )
