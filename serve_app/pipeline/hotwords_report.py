"""What became of a client's hotwords: which were listened for, and why the others were not."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypedDict

from deployments.messages import Hotword
from serve_app.pipeline.hotwords import key_of

Means = Literal["listens", "reads", "none"]
"""What a model does with hotwords: it has a place for them, it reads them as text, or it has no use for
them."""

UNHEARD = "No speech was recognized, so nothing was listened for."
UNSPELLABLE = (
    "The model cannot listen for it: it is too long, or has characters that the model does not know."
)
UNUSED_LIVE = "The model of live text has no hotwords; the finals of mode 2pass are recognized with them."

UNKNOWN_LIST = "This is the id of a list at another service, whose words are not known here; send the words."


class IgnoredItem(TypedDict):
    """A word that was not listened for; ``reason`` is a sentence."""

    text: str
    reason: str


class HotwordsBody(TypedDict):
    """The field ``hotwords`` of answers in JSON."""

    applied: list[str]
    ignored: list[IgnoredItem]


@dataclass(frozen=True, slots=True)
class IgnoredHotword:
    """A word that was not listened for; ``reason`` is a sentence."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class HotwordReport:
    """``applied``: what was listened for, as the client wrote it. Each word is in one of the two."""

    applied: tuple[str, ...] = ()
    ignored: tuple[IgnoredHotword, ...] = ()

    @property
    def body(self) -> HotwordsBody:
        """As all answers in JSON show it."""
        ignored: list[IgnoredItem] = [{"text": word.text, "reason": word.reason} for word in self.ignored]
        return {"applied": [*self.applied], "ignored": ignored}


def together(reports: Iterable[HotwordReport | None]) -> HotwordReport | None:
    """One report of several recordings, or channels, for which there were the same hotwords: a word that was
    listened for in any of them was listened for."""
    known = [report for report in reports if report is not None]
    if not known:
        return None
    applied = {text: None for report in known for text in report.applied}
    ignored = {word.text: word for report in known for word in report.ignored if word.text not in applied}
    return HotwordReport(tuple(applied), tuple(ignored.values()))


class Recognizer(Protocol):
    """What has to be known of a model."""

    @property
    def id(self) -> str: ...

    @property
    def reads_context(self) -> bool: ...

    @property
    def hears_hotwords(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class AskedHotwords:
    """The hotwords of a client, and what the model that is to recognize does with such.

    ``model`` is its name. ``live_only``: what is said is final as a model of live text heard it, which has no
    hotwords. ``lists``: ids of lists that the client keeps at another service.
    """

    words: tuple[Hotword, ...] = ()
    model: str = ""
    means: Means = "none"
    live_only: bool = False
    lists: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: tuple[Hotword, ...], model: Recognizer, lists: tuple[str, ...] = ()) -> Self:
        """What ``words`` are to ``model``."""
        means: Means = "reads" if model.reads_context else "listens" if model.hears_hotwords else "none"
        return cls(words, model.id, means, lists=lists)

    def report(self, applied: Collection[str], *, heard: bool = True) -> HotwordReport | None:
        """What became of them; ``None`` if there were none.

        Args:
            applied: what the model says that it listened for.
            heard: whether anything was recognized at all.
        """
        if not self.words and not self.lists:
            return None
        keys = {key_of(text) for text in applied}
        if self.means == "reads" and heard:
            keys = {key_of(word.text) for word in self.words}
        reason = self._why_not(heard, bool(keys))
        taken = tuple(word.text for word in self.words if key_of(word.text) in keys)
        others = [word.text for word in self.words if key_of(word.text) not in keys]
        ignored = [IgnoredHotword(text, reason) for text in others]
        return HotwordReport(taken, (*ignored, *(IgnoredHotword(name, UNKNOWN_LIST) for name in self.lists)))

    def _why_not(self, heard: bool, some_are: bool) -> str:
        # A model that nobody knows may have hotwords all the same, and then says so itself.
        if self.means == "none" and not some_are:
            return f"The model {self.model} has no hotwords."
        if self.live_only:
            return UNUSED_LIVE
        return UNSPELLABLE if heard or some_are else UNHEARD
