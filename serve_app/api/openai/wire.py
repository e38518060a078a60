"""Request parameters of ``POST /v1/audio/transcriptions``, as they are spelled on the wire."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import InvalidParameter
from serve_app.rendering.openai import Granularity

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]


class TranscriptionForm(BaseModel):
    """The form fields beside ``file``. Unknown fields are ignored, as OpenAI's own server does."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field("", description="Any name; names that are not served here mean the default model.")
    language: str | None = Field(None, description="ISO 639-1 code of what is spoken, such as `zh`.")
    response_format: ResponseFormat | None = Field(
        None, description="Default `json`, or `verbose_json` where `timestamp_granularities[]` is given."
    )
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list, description="`word` adds word times to `verbose_json`."
    )
    prompt: str | None = Field(None, description="Accepted; has no effect on the loaded model.")
    temperature: float = Field(0, ge=0, le=1, description="Accepted; recognition is deterministic.")
    stream: bool = Field(False, description="Not supported yet; must be false.")
    format: Literal["pcm"] | None = Field(
        None, description="`pcm`: the file is 16-bit little-endian mono PCM without a header."
    )
    sample_rate: int = Field(16000, ge=4000, le=192000, description="Samples per second, for `format=pcm`.")

    @property
    def effective_format(self) -> ResponseFormat:
        if self.response_format is not None:
            return self.response_format
        return "verbose_json" if self.timestamp_granularities else "json"

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "TranscriptionForm":
        """Read form fields; raises :class:`InvalidParameter` that names the first bad one."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            message = f"The value {first['input']!r} of {name!r} is not valid: {first['msg']}."
            raise InvalidParameter(message, name) from error


def openapi_request_body() -> dict[str, Any]:
    """What Swagger shows for the form, since it is parsed while it streams in and not by FastAPI."""
    schema = TranscriptionForm.model_json_schema()
    properties = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    properties["timestamp_granularities[]"] = properties.pop("timestamp_granularities")
    form = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
