"""What a speech model that writes text token by token takes and gives, and what an aligner does.

Engines know nothing of Ray or HTTP. Unlike those of :mod:`deployments.engines.base`, a generative engine
is asynchronous, because it decides by itself what it works on together.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.engines.base import SAMPLE_RATE, Pcm

WINDOW_SAMPLES = 8 * SAMPLE_RATE
"""Audio is given in windows of this length: the encoder of Qwen3-ASR never looks across it, so what was
computed for a window stays right when more audio follows."""

Times = tuple[tuple[int, int], ...]
"""Begin and end of each word, in milliseconds from the first sample."""


@dataclass(frozen=True, slots=True)
class SpeechPrompt:
    """What one decoding is made from.

    Attributes:
        samples: all of the audio, at most 20 minutes.
        language: the model's own name of the language that is spoken, such as ``Chinese``; ``None``: the
            model tells.
        context: plain text that helps, such as names that may come up. It is never an instruction: the
            engine takes out what the model would read as control tokens.
        prefix: tokens with which the answer begins, from an earlier :class:`Hypothesis` on the begin of this
            audio and with this language.
        max_tokens: how many tokens may follow the prefix.
    """

    samples: Pcm
    language: str | None = None
    context: str = ""
    prefix: tuple[int, ...] = ()
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What the model wrote so far.

    Attributes:
        token_ids: all tokens of the answer, prefix included, end token not.
        log_probs: the natural logarithm of the probability of each; 0 for those of the prefix.
        text: what was said, with the model's own marks.
        language: the model's own name of the language: the one of the prompt, or what the model heard;
            ``None`` where it heard nobody speak.
        finished: whether the model came to an end by itself; else ``max_tokens`` was reached, or more
            follows.
        pieces: the text of each token that belongs to ``text``, in order: joined, they are ``text``, but for
            characters of which not all bytes are there yet.
        first_piece: the index in ``token_ids`` of the first of them.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    language: str | None
    finished: bool
    pieces: tuple[str, ...] = ()
    first_piece: int = 0


class EngineDied(Exception):
    """The process that computes is gone: this call, and all later ones on this replica, can only be made on
    another one. Raised by all methods of an engine; :meth:`GenerativeAsrEngine.check` raises it too."""


class GenerativeAsrEngine(Protocol):
    """Writes down speech. Any number of calls may run at once; they share the model's batches.

    The result of a call must not depend on what else is under way, beyond rounding. A call that is canceled
    frees what it held at once.
    """

    async def transcribe(self, prompt: SpeechPrompt) -> Hypothesis:
        """Decode to the end, greedily.

        Raises:
            ValueError: the prompt cannot be decoded: no samples, too many, or an unknown language.
        """
        ...

    def stream(self, prompt: SpeechPrompt) -> AsyncGenerator[Hypothesis, None]:
        """The same, told as it grows; the last one is what :meth:`transcribe` gives."""
        ...

    @property
    def unfinished(self) -> int:
        """Calls that hold a place in the model now."""
        ...

    async def check(self) -> None:
        """Return if the engine works.

        Raises:
            Exception: it does not, and will not again: the replica has to be replaced.
        """
        ...

    async def aclose(self) -> None:
        """End what runs, and free the device. May be called again."""
        ...


@dataclass(frozen=True, slots=True)
class AlignmentItem:
    """Words, as in :class:`deployments.engines.base.Word`, said one after the other in some audio.

    ``language`` is the model's own name, such as ``Chinese``.
    """

    samples: Pcm
    words: tuple[str, ...]
    language: str


class AlignerEngine(Protocol):
    """Finds when known words were said, all items of a call in one batch."""

    def align(self, items: Sequence[AlignmentItem]) -> list[Times]:
        """The times of the words of each item; they never decrease, and lie within the audio."""
        ...
