"""Blocks of a recording that were stored for the models, and stretches of it across them."""

from deployments.messages import SAMPLE_RATE, AudioPiece, AudioSlice, SpeechSpan

SAMPLES_PER_MS = SAMPLE_RATE // 1000


class BlockStore:
    """The stored blocks that are still needed, as one long recording."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, AudioPiece]] = []
        self.num_samples = 0

    def append(self, piece: AudioPiece) -> None:
        self._pieces.append((self.num_samples, piece))
        self.num_samples += piece.end - piece.begin

    def forget_before(self, ms: int) -> None:
        """Drop whole blocks before ``ms``. Slices that were handed out keep what they refer to."""
        sample = ms * SAMPLES_PER_MS
        while self._pieces and self._pieces[0][0] + _length(self._pieces[0][1]) <= sample:
            del self._pieces[0]

    def slice(self, span: SpeechSpan) -> AudioSlice:
        """The audio of a span, as pieces of blocks."""
        begin, end = span.begin_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS
        cut: list[AudioPiece] = []
        for offset, piece in self._pieces:
            first, last = max(begin - offset, 0), min(end - offset, _length(piece))
            if first < last:
                cut.append(AudioPiece(piece.ref, piece.begin + first, piece.begin + last))
        return AudioSlice(tuple(cut))


def _length(piece: AudioPiece) -> int:
    return piece.end - piece.begin
