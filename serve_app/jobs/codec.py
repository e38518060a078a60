"""Orders and results as JSON, without any loss."""

import json
from dataclasses import fields, replace
from typing import Any

from pydantic import TypeAdapter

from deployments.messages import Recognition, Word
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.types import Sentence, Speaker, TimedWord

_SPEC = TypeAdapter(JobSpec)

_NO_RECOGNITION = Recognition()
_ABOUT_RECOGNITION = tuple(field.name for field in fields(Recognition) if field.name != "words")


def dump_spec(spec: JobSpec) -> str:
    """The same text for the same order. In ASCII: a client's strings may hold what no database takes.

    Enrolled voices are left out: who works on the job looks them up, so that those deleted are gone.
    """
    if speakers := spec.options.speakers:
        brought = tuple(voice for voice in speakers.known if not voice.enrolled)
        spec = replace(spec, options=replace(spec.options, speakers=replace(speakers, known=brought)))
    dumped = _SPEC.dump_python(spec, mode="json")
    if spec.traceparent is None:
        # As orders were written before there were traces: they must go on being the same.
        del dumped["traceparent"]
    return json.dumps(dumped, sort_keys=True)


def load_spec(text: str) -> JobSpec:
    return _SPEC.validate_python(json.loads(text))


def dump_recognition(recognition: Recognition) -> str:
    if recognition == Recognition(recognition.words):
        return _compact([[w.text, w.begin_ms, w.end_ms, w.log_prob] for w in recognition.words])
    words = [[w.text, w.begin_ms, w.end_ms, w.log_prob, w.mark] for w in recognition.words]
    about = {
        name: value
        for name in _ABOUT_RECOGNITION
        if (value := getattr(recognition, name)) != getattr(_NO_RECOGNITION, name)
    }
    return _compact({"words": words, **about})


def load_recognition(text: str) -> Recognition:
    stored = json.loads(text)
    about = stored if isinstance(stored, dict) else {"words": stored}
    words = tuple(Word(*row) for row in about["words"])
    known = {name: value for name, value in about.items() if name in _ABOUT_RECOGNITION}
    return Recognition(words, **{name: _tupled(value) for name, value in known.items()})


def dump_sentence(sentence: Sentence) -> str:
    words = [[w.text, w.begin, w.end, w.log_prob, w.mark] for w in sentence.words]
    about: dict[str, Any] = {}
    if (speaker := sentence.speaker) is not None:
        about["speaker"] = [speaker.number, speaker.label, speaker.name, speaker.confidence]
    if sentence.emotion is not None:
        about["emotion"] = sentence.emotion
    if sentence.events:
        about["events"] = sentence.events
    return _compact({"words": words, **about} if about else words)


def load_sentence(text: str) -> Sentence:
    stored = json.loads(text)
    about = stored if isinstance(stored, dict) else {"words": stored}
    said, speaker = tuple(TimedWord(*row) for row in about["words"]), about.get("speaker")
    return Sentence(
        said,
        None if speaker is None else Speaker(*speaker),
        about.get("emotion"),
        tuple(about.get("events", ())),
    )


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
