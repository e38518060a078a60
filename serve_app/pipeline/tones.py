"""How sentences were said, from what a model tells of the segments that they lie in."""

from dataclasses import dataclass, replace

from deployments.messages import Recognition, SpeechSpan
from serve_app.pipeline.types import Sentence


@dataclass(frozen=True, slots=True)
class _Tone:
    """Seconds from the begin of the recording."""

    begin: float
    end: float
    emotion: str | None
    events: tuple[str, ...]

    def shared(self, sentence: Sentence) -> float:
        """Seconds that the sentence has in common with the segment."""
        return min(self.end, sentence.end) - max(self.begin, sentence.begin)

    def touches(self, sentence: Sentence) -> bool:
        """Whether any of the sentence, which may be a word without a length, is in the segment."""
        is_inside = self.begin <= sentence.begin and sentence.end <= self.end
        return is_inside or self.shared(sentence) > 0


class Tones:
    """Collects emotion and events of segments, in their order, and gives them to sentences, in theirs."""

    def __init__(self) -> None:
        self._tones: list[_Tone] = []

    def add(self, span: SpeechSpan, recognition: Recognition) -> None:
        """The next segment."""
        if recognition.emotion is not None or recognition.events:
            tone = _Tone(span.begin_ms / 1000, span.end_ms / 1000, recognition.emotion, recognition.events)
            self._tones.append(tone)

    def given_to(self, sentence: Sentence) -> Sentence:
        """The next sentence, with the emotion of the segment that has the most of it, and all events of those
        that have any."""
        self._tones = [tone for tone in self._tones if tone.end >= sentence.begin]
        touched = [tone for tone in self._tones if tone.touches(sentence)]
        if not touched:
            return sentence
        felt = max(touched, key=lambda tone: tone.shared(sentence))
        events = dict.fromkeys(event for tone in touched for event in tone.events)
        return replace(sentence, emotion=felt.emotion, events=tuple(events))
