"""Orders and results as JSON, without any loss."""

import json
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from deployments.messages import Recognition, Word
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.types import Sentence, Speaker, TimedWord

_SPEC = TypeAdapter(JobSpec)


def dump_spec(spec: JobSpec) -> str:
    """The same text for the same order. In ASCII: a client's strings may hold what no database takes.

    Enrolled voices are left out: who works on the job looks them up, so that those deleted are gone.
    """
    if speakers := spec.options.speakers:
        brought = tuple(voice for voice in speakers.known if not voice.enrolled)
        spec = replace(spec, options=replace(spec.options, speakers=replace(speakers, known=brought)))
    return json.dumps(_SPEC.dump_python(spec, mode="json"), sort_keys=True)


def load_spec(text: str) -> JobSpec:
    return _SPEC.validate_python(json.loads(text))


def dump_recognition(recognition: Recognition) -> str:
    if not recognition.punctuated and recognition.language is None:
        return _compact([[w.text, w.begin_ms, w.end_ms, w.log_prob] for w in recognition.words])
    words = [[w.text, w.begin_ms, w.end_ms, w.log_prob, w.mark] for w in recognition.words]
    about = {"language": recognition.language, "punctuated": recognition.punctuated}
    return _compact({"words": words, **about})


def load_recognition(text: str) -> Recognition:
    stored = json.loads(text)
    about = stored if isinstance(stored, dict) else {"words": stored}
    words = tuple(Word(*row) for row in about["words"])
    return Recognition(words, about.get("language"), about.get("punctuated", False))


def dump_sentence(sentence: Sentence) -> str:
    words = [[w.text, w.begin, w.end, w.log_prob, w.mark] for w in sentence.words]
    speaker = sentence.speaker
    if speaker is None:
        return _compact(words)
    about = [speaker.number, speaker.label, speaker.name, speaker.confidence]
    return _compact({"words": words, "speaker": about})


def load_sentence(text: str) -> Sentence:
    stored = json.loads(text)
    words, speaker = (stored["words"], stored["speaker"]) if isinstance(stored, dict) else (stored, None)
    said = tuple(TimedWord(*row) for row in words)
    return Sentence(said, None if speaker is None else Speaker(*speaker))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
