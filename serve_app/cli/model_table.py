"""The catalogue as text: cells of terminal tables, and the tables of docs/models.md."""

from collections.abc import Iterable

from deployments.catalogue import Catalogue, ModelEntry, Task

_SHOWN_LANGUAGES = 5
_HEAD = """\
| model | ids | languages | size | license | runs on | gives |
|---|---|---|---|---|---|---|
"""
_TASKS: dict[Task, str] = {
    "asr": "Recognition of recordings",
    "asr-streaming": "Recognition of live speech",
    "vad": "Where somebody speaks",
    "punctuation": "Punctuation",
    "punctuation-realtime": "Punctuation of live text",
    "speaker": "Who speaks",
    "aligner": "When words were said",
    "timestamps": "When words were said, by FunASR",
    "language-model": "Language models",
    "itn": "Numbers as digits",
    "emotion": "Emotion",
    "keyword-spotting": "Keywords",
}


def size(entry: ModelEntry) -> str:
    """What its files take, as ``880 MB`` or ``4.7 GB``; empty where nobody says."""
    if entry.size_mb is None:
        return ""
    return f"{entry.size_mb} MB" if entry.size_mb < 1000 else f"{entry.size_mb / 1000:.1f} GB"


def short_languages(entry: ModelEntry) -> str:
    """A few codes by name, many by their number."""
    if entry.languages == ("mul",):
        return "many"
    if len(entry.languages) <= _SHOWN_LANGUAGES:
        return " ".join(entry.languages)
    return f"{len(entry.languages)} languages"


def markdown(catalogue: Catalogue) -> str:
    """A table for each task, in the order of the catalogue's tasks."""
    parts = []
    for task, heading in _TASKS.items():
        entries = catalogue.of_task(task)
        if entries:
            rows = "".join(f"{_row(entry)}\n" for entry in entries)
            parts.append(f"### {heading}\n\n{_HEAD}{rows}")
    return "\n".join(parts)


def _row(entry: ModelEntry) -> str:
    what = [f"**{entry.name}**: {entry.title}"]
    if entry.aliases:
        what.append(f"also {_code(entry.aliases)}")
    if entry.sample_rate not in (None, 16_000):
        what.append(f"{entry.sample_rate // 1000} kHz" if entry.sample_rate else "")
    cells = [
        "; ".join(what),
        _places(entry),
        short_languages(entry),
        ", ".join(filter(None, (entry.parameters, size(entry)))),
        entry.license,
    ]
    if entry.planned is not None:
        return f"| {' | '.join(cells)} | not yet there | {entry.planned} |"
    needs = f" (needs {', '.join(entry.needs)})" if entry.needs else ""
    gives = ", ".join(gift.replace("_", " ") for gift in entry.gives)
    return f"| {' | '.join(cells)} | {', '.join(entry.backends)} | {gives}{needs} |"


def _places(entry: ModelEntry) -> str:
    named = [("MS", entry.modelscope), ("HF", entry.huggingface), ("ONNX", entry.onnx)]
    places = [f"{hub} {_code(ids)}" for hub, ids in named if ids]
    if entry.path:
        places.append(_code([entry.path]))
    return "<br>".join(places)


def _code(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)
