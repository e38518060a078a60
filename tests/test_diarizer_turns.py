"""The two-layer merge of sentences into turns."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serve_app.pipeline.speakers.turns import LONGEST_SECONDS, SHORT_SECONDS, turns
from serve_app.pipeline.types import Sentence, Speaker, TimedWord


def said(number: int | None, begin: float, seconds: float, confidence: float = 1.0) -> Sentence:
    speaker = None if number is None else Speaker(number, f"Speaker {number}", confidence=confidence)
    middle = begin + seconds / 2
    words = (TimedWord("一", begin, middle), TimedWord("二", middle, begin + seconds, mark="。"))
    return Sentence(words, speaker)


def lengths(sentences: list[Sentence]) -> list[tuple[int | None, int]]:
    return [(turn.speaker.number if turn.speaker else None, len(turn.sentences)) for turn in turns(sentences)]


def test_short_pieces_of_one_speaker_are_joined() -> None:
    sentences = [said(1, 0, 3), said(1, 4, 3), said(2, 8, 2), said(1, 11, 4), said(1, 15, 2)]
    assert lengths(sentences) == [(1, 2), (2, 1), (1, 2)]
    first = turns(sentences)[0]
    assert (first.begin, first.end, first.text) == (0, 7, "一二。一二。")


def test_nothing_is_joined_beyond_a_minute() -> None:
    assert lengths([said(1, 20.0 * index, 19) for index in range(7)]) == [(1, 3), (1, 3), (1, 1)]
    assert lengths([said(1, 0, 90), said(1, 91, 2)]) == [(1, 1), (1, 1)]


def test_a_minute_ends_behind_a_long_piece_and_not_behind_a_scrap() -> None:
    sentences = [said(1, 0, 30), said(1, 31, 20), said(1, 52, 4), said(1, 57, 30)]
    assert lengths(sentences) == [(1, 3), (1, 1)]
    sentences = [said(1, 0, 40), said(1, 41, 11), said(1, 53, 5), said(1, 58.5, 8)]
    assert lengths(sentences) == [(1, 1), (1, 3)]


def test_confidence_is_that_of_the_sentences() -> None:
    (turn,) = turns([said(1, 0, 3, 1.0), said(1, 3, 1, 0.2)])
    assert turn.speaker is not None
    assert abs(turn.speaker.confidence - 0.8) < 1e-9


def test_without_speakers_there_is_one_run() -> None:
    assert lengths([said(None, 0, 3), said(None, 4, 3)]) == [(None, 2)]
    assert turns([]) == ()


pieces = st.lists(st.tuples(st.sampled_from([1, 2, None]), st.floats(0.1, 30), st.floats(0, 5)), max_size=40)


@given(pieces)
def test_all_sentences_are_kept_and_limits_hold(drawn: list[tuple[int | None, float, float]]) -> None:
    sentences: list[Sentence] = []
    for number, seconds, pause in drawn:
        sentences.append(said(number, (sentences[-1].end if sentences else 0) + pause, seconds))
    found = turns(sentences)
    assert [sentence for turn in found for sentence in turn.sentences] == sentences
    for turn in found:
        assert len({s.speaker.number if s.speaker else None for s in turn.sentences}) == 1
        assert len(turn.sentences) == 1 or turn.end - turn.begin <= LONGEST_SECONDS
    for before, after in pairwise(found):
        same = before.speaker == after.speaker
        short = min(before.end - before.begin, after.end - after.begin) < SHORT_SECONDS
        assert not (same and short) or after.end - before.begin > LONGEST_SECONDS
