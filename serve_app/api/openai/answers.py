"""A transcript as an HTTP answer, in the formats of OpenAI's API."""

from collections.abc import Collection

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from serve_app.api.openai.wire import ResponseFormat
from serve_app.pipeline.types import Transcript
from serve_app.rendering import openai as render
from serve_app.rendering import subtitles
from serve_app.rendering.openai import Granularity


def answer(
    transcript: Transcript,
    response_format: ResponseFormat,
    granularities: Collection[Granularity] = (),
    logprobs: bool = False,
    *,
    languages: bool = False,
    speakers: bool = False,
) -> Response:
    """Answer with a whole transcript.

    Args:
        granularities: what ``verbose_json`` holds; none means its default.
        logprobs: add the log-probability of each token, in the formats that are JSON.
        languages: add the languages that were found, in the formats that are JSON.
        speakers: they were told apart, so the segments of ``verbose_json`` have a ``speaker``.
    """
    match response_format:
        case "text":
            return PlainTextResponse(render.text_body(transcript))
        case "srt":
            return PlainTextResponse(subtitles.srt(transcript))
        case "vtt":
            return PlainTextResponse(subtitles.vtt(transcript), media_type="text/vtt")
    extras = render.extras(transcript, logprobs=logprobs, languages=languages)
    match response_format:
        case "json":
            return JSONResponse({**render.json_body(transcript), **extras})
        case "diarized_json":
            return JSONResponse({**render.diarized_json_body(transcript), **extras})
        case "verbose_json":
            wanted = granularities or render.DEFAULT_GRANULARITIES
            body = render.verbose_json_body(transcript, wanted, speakers=speakers)
            return JSONResponse({**body, **extras})
