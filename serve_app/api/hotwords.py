"""Hotwords in the answers of all protocols: what was listened for, and what was not and why.

No protocol has a place for that. So it goes into a field ``hotwords`` that is there for those only who sent
some: clients that do not know the field pass over it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from deployments.messages import Hotword
from serve_app.errors import ModelNotFound
from serve_app.jobs.types import Job, JobStatus
from serve_app.models import ServedModels
from serve_app.pipeline.hotwords import HotwordList
from serve_app.pipeline.hotwords_report import AskedHotwords, HotwordReport, together
from serve_app.pipeline.live.events import LiveOptions, SentenceFinal
from serve_app.pipeline.types import Transcript
from serve_app.transcription import TranscriptionOptions

_LISTS = "word_lists"


@dataclass(frozen=True, slots=True)
class AskedWords:
    """What a client wants to be listened for: ``words``, and ``lists`` that it keeps at another service, by
    their ids."""

    words: tuple[Hotword, ...] = ()
    lists: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: HotwordList) -> Self:
        return cls(found.words, () if found.elsewhere is None else (found.elsewhere,))

    @property
    def extra(self) -> dict[str, str]:
        """What :func:`job_report` wants to find in ``JobSpec.extra``."""
        return {_LISTS: json.dumps(self.lists)} if self.lists else {}


def transcript_report(
    models: ServedModels,
    options: TranscriptionOptions,
    transcripts: Sequence[Transcript],
    lists: Sequence[str] = (),
) -> HotwordReport | None:
    """What became of the hotwords of a recording; ``None`` if there were none.

    Args:
        options: as they were served.
        transcripts: of the recording, or of each of its channels.
        lists: as in :class:`AskedWords`.
    """
    asked = _asked(models, options.model, AskedWords(options.hotwords, tuple(lists)))
    reports = [asked.report(item.applied, heard=bool(item.sentences)) for item in transcripts]
    return together(reports) if reports else asked.report((), heard=False)


def job_report(models: ServedModels, job: Job, transcripts: Sequence[Transcript]) -> HotwordReport | None:
    """The same for a job; ``None`` also if it is not completed."""
    if job.status is not JobStatus.COMPLETED:
        return None
    lists = json.loads(job.spec.extra.get(_LISTS, "[]"))
    return transcript_report(models, job.spec.options, transcripts, lists)


class HotwordsTold:
    """What becomes of a live client's hotwords, sentence after sentence."""

    def __init__(self, options: LiveOptions) -> None:
        """``options``: how the session listens."""
        live_only = not options.two_pass and options.redecoding is None
        self._asked = replace(options.hotwords, live_only=live_only)
        self._all: HotwordReport | None = None

    @property
    def live(self) -> bool | None:
        """Whether text that may still change is heard with hotwords; ``None`` if there are none."""
        return self._asked.means == "reads" if self._asked.words else None

    def sentence(self, event: SentenceFinal) -> HotwordReport | None:
        """What became of them in a sentence; ``None`` if there are none."""
        report = self._asked.report(event.applied, heard=bool(event.text or event.applied))
        self._all = together((self._all, report))
        return report

    @property
    def overall(self) -> HotwordReport | None:
        """The same for all sentences up to now."""
        return self._all or self._asked.report((), heard=False)


def hotword_fields(report: HotwordReport | None) -> dict[str, Any]:
    """What goes into an answer: a field ``hotwords``, or nothing."""
    return {} if report is None else {"hotwords": report.body}


def with_lists(options: LiveOptions, asked: AskedWords) -> LiveOptions:
    """``options`` that were made for the words of a client, with the lists that it keeps elsewhere."""
    return replace(options, hotwords=replace(options.hotwords, lists=asked.lists))


def _asked(models: ServedModels, name: str, asked: AskedWords) -> AskedHotwords:
    try:
        model = models.find(name)
    except ModelNotFound:
        # A job may outlive its model.
        return AskedHotwords(asked.words, name, "listens", lists=asked.lists)
    return AskedHotwords.of(asked.words, model, asked.lists)
