"""Orders and results as JSON, without any loss."""

import json
from typing import Any

from pydantic import TypeAdapter

from deployments.messages import Recognition, Word
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.types import Sentence, TimedWord

_SPEC = TypeAdapter(JobSpec)


def dump_spec(spec: JobSpec) -> str:
    """The same text for the same order. In ASCII: a client's strings may hold what no database takes."""
    return json.dumps(_SPEC.dump_python(spec, mode="json"), sort_keys=True)


def load_spec(text: str) -> JobSpec:
    return _SPEC.validate_python(json.loads(text))


def dump_recognition(recognition: Recognition) -> str:
    return _compact([[w.text, w.begin_ms, w.end_ms, w.log_prob] for w in recognition.words])


def load_recognition(text: str) -> Recognition:
    return Recognition(tuple(Word(*row) for row in json.loads(text)))


def dump_sentence(sentence: Sentence) -> str:
    return _compact([[w.text, w.begin, w.end, w.log_prob, w.mark] for w in sentence.words])


def load_sentence(text: str) -> Sentence:
    return Sentence(tuple(TimedWord(*row) for row in json.loads(text)))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
