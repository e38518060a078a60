"""A transcript as an HTTP answer, in the formats of OpenAI's API."""

from collections.abc import Collection

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from serve_app.api.openai.wire import ResponseFormat
from serve_app.pipeline.hotwords_report import HotwordReport
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
    hotwords: HotwordReport | None = None,
    raw: bool = False,
) -> Response:
    """Answer with a whole transcript.

    Args:
        granularities: what ``verbose_json`` holds; none means its default.
        logprobs: add the log-probability of each token, in the formats that are JSON.
        languages: add the languages that were found, in the formats that are JSON.
        speakers: they were told apart, so the segments of ``verbose_json`` have a ``speaker``.
        hotwords: what became of them, if the request had any. Two headers count them, for the formats that
            are text.
        raw: with the model's tags: in the formats that are JSON, beside the text.
    """
    counts = _counts(hotwords)
    match response_format:
        case "text":
            return PlainTextResponse(render.text_body(transcript, raw=raw), headers=counts)
        case "srt":
            return PlainTextResponse(subtitles.srt(transcript), headers=counts)
        case "vtt":
            return PlainTextResponse(subtitles.vtt(transcript), media_type="text/vtt", headers=counts)
    extras = render.extras(transcript, logprobs=logprobs, languages=languages, hotwords=hotwords, raw=raw)
    match response_format:
        case "json":
            return JSONResponse({**render.json_body(transcript), **extras}, headers=counts)
        case "diarized_json":
            return JSONResponse({**render.diarized_json_body(transcript), **extras}, headers=counts)
        case "verbose_json":
            wanted = granularities or render.DEFAULT_GRANULARITIES
            body = render.verbose_json_body(transcript, wanted, speakers=speakers)
            return JSONResponse({**body, **extras}, headers=counts)


def _counts(hotwords: HotwordReport | None) -> dict[str, str]:
    if hotwords is None:
        return {}
    return {
        "x-hotwords-applied": str(len(hotwords.applied)),
        "x-hotwords-ignored": str(len(hotwords.ignored)),
    }
