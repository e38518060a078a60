"""Who said what, told from embeddings: counts, changes inside sentences, odd recordings, known voices."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import SpeechSpan
from serve_app.pipeline.speakers.diarizer import Diarizer
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning, Voiceprint
from serve_app.pipeline.speakers.windows import HOP_MS, WINDOW_MS, windows_of
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from tests.simulated_voices import Turn, converse, error, numbers, talk, voices

SEEDS = st.integers(0, 10_000)
BELOW_A_WINDOW = 400


@given(st.integers(0, 10**7), st.integers(1, 60_000))
def test_windows_cover_a_span(begin: int, length: int) -> None:
    windows = windows_of(SpeechSpan(begin, begin + length))
    assert windows[0].begin_ms == begin
    assert windows[-1].end_ms == begin + length
    assert {window.end_ms - window.begin_ms for window in windows} == {min(length, WINDOW_MS)}
    begins = [window.begin_ms for window in windows]
    assert all(0 < after - before <= HOP_MS for before, after in pairwise(begins))


@pytest.mark.parametrize("people", [1, 2, 3, 5, 8, 12])
def test_people_are_counted_and_told_apart(people: int) -> None:
    conversation = talk(people, 40.0 * people, seed=people)
    labeled = conversation.labeled()
    assert len(set(numbers(labeled))) == people
    assert error(labeled, conversation.truth) < 0.03


def test_speakers_are_numbered_by_their_first_words_and_called_after_the_language() -> None:
    conversation = talk(3, 60)
    labeled = conversation.labeled()
    first_seen = list(dict.fromkeys(numbers(labeled)))
    assert first_seen == [1, 2, 3]
    assert labeled[0].speaker is not None
    assert labeled[0].speaker.label == "说话人1"
    assert {s.speaker.label for s in conversation.labeled(language="en") if s.speaker} == {
        "Speaker 1",
        "Speaker 2",
        "Speaker 3",
    }


def test_a_sentence_is_cut_where_the_speaker_changes_inside() -> None:
    turns = [Turn(0, 0.0, 19, closed=False), Turn(1, 4.75, 16), Turn(0, 10.0, 20), Turn(1, 16.0, 20)]
    conversation = converse(turns, voices(2))
    assert any(
        len(sentence.words) == 10 and not sentence.words[8].mark for sentence in conversation.sentences
    )
    labeled = conversation.labeled()
    before, after = Transcript.of(30, conversation.sentences), Transcript.of(30, labeled)
    assert after.words == before.words
    assert after.text == before.text
    assert numbers(labeled) == [voice + 1 for voice in conversation.truth]
    change = next(index for index, sentence in enumerate(labeled) if sentence.begin == 4.75)
    assert not labeled[change - 1].words[-1].mark


def test_the_last_word_of_a_sentence_stays_with_it_though_it_is_timed_too_late() -> None:
    conversation = converse([Turn(index % 2, 6.0 * index, 20) for index in range(6)], voices(2))
    late = [
        Sentence((*sentence.words[:-1], replace(last, begin=last.begin + 0.95, end=last.end + 0.95)))
        if (last := sentence.words[-1]).end % 6 == 5
        else sentence
        for sentence in conversation.sentences
    ]
    assert sum(one != other for one, other in zip(late, conversation.sentences, strict=True)) == 6
    diarizer = Diarizer(SpeakerOptions(), SpeakerTuning())
    diarizer.add(conversation.windows, conversation.embeddings)
    labeled = diarizer.label(late, "zh")
    assert [sentence.words for sentence in labeled] == [sentence.words for sentence in late]
    assert numbers(labeled) == [voice + 1 for voice in conversation.truth]


def test_a_sentence_of_one_speaker_stays_whole() -> None:
    conversation = talk(2, 60)
    labeled = conversation.labeled()
    assert [sentence.words for sentence in labeled] == [s.words for s in conversation.sentences]


def test_quick_changes_make_no_speaker_of_their_own() -> None:
    rng = np.random.default_rng(4)
    turns: list[Turn] = []
    for index in range(60):
        begin = turns[-1].end + 0.05 if turns else 0.0
        turns.append(Turn(index % 2, round(begin, 3), int(rng.integers(5, 14))))
    conversation = converse(turns, voices(2, 4))
    labeled = conversation.labeled()
    assert len(set(numbers(labeled))) == 2
    assert error(labeled, conversation.truth) < 0.08


def test_somebody_who_hardly_speaks_is_found() -> None:
    conversation = talk(3, 200, seed=6, shares=(60, 35, 5))
    labeled = conversation.labeled()
    assert len(set(numbers(labeled))) == 3
    assert error(labeled, conversation.truth) < 0.03


def test_nobody_spoke() -> None:
    diarizer = Diarizer(SpeakerOptions(), SpeakerTuning())
    assert diarizer.label((), "zh") == ()
    conversation = talk(2, 20)
    diarizer.add(conversation.windows, conversation.embeddings)
    assert diarizer.label((), "zh") == ()


def test_one_word() -> None:
    conversation = converse([Turn(0, 1.0, 1)], voices(1))
    (sentence,) = conversation.labeled()
    assert sentence.speaker is not None
    assert sentence.speaker.number == 1
    assert sentence.words == conversation.sentences[0].words


def test_two_windows() -> None:
    same = converse([Turn(0, 0.0, 6), Turn(0, 4.0, 6)], voices(2))
    different = converse([Turn(0, 0.0, 6), Turn(1, 4.0, 6)], voices(2))
    assert numbers(same.labeled()) == [1] * 12
    assert numbers(different.labeled(SpeakerOptions(count=2))) == [1] * 6 + [2] * 6


def test_no_windows_at_all() -> None:
    conversation = talk(2, 10)
    labeled = Diarizer(SpeakerOptions(), SpeakerTuning()).label(conversation.sentences, "zh")
    assert [sentence.words for sentence in labeled] == [s.words for s in conversation.sentences]
    assert {(s.speaker.number, s.speaker.confidence) for s in labeled if s.speaker} == {(1, 0.0)}


def test_words_that_no_window_heard_are_the_neighbors() -> None:
    conversation = converse([Turn(0, 0.0, 20), Turn(1, 8.0, 20), Turn(0, 16.0, 20)], voices(2))
    stray = Sentence((TimedWord("嗯", 13.1, 13.3, mark="。"),))
    sentences = (*conversation.sentences[:4], stray, *conversation.sentences[4:])
    diarizer = Diarizer(SpeakerOptions(), SpeakerTuning())
    diarizer.add(conversation.windows, conversation.embeddings)
    speaker = next(s.speaker for s in diarizer.label(sentences, "zh") if s.words == stray.words)
    assert speaker is not None
    assert (speaker.number, speaker.confidence) == (2, 0.0)


def test_noise_is_no_speaker() -> None:
    conversation = talk(2, 60, seed=1)
    noise = tuple(SpeechSpan(100_000 + 750 * index, 101_500 + 750 * index) for index in range(40))
    diarizer = Diarizer(SpeakerOptions(count=2), SpeakerTuning())
    diarizer.add(noise, np.tile(voices(1, 99).astype(np.float32), (40, 1)))
    diarizer.add(conversation.windows, conversation.embeddings)
    labeled = diarizer.label(conversation.sentences, "zh")
    assert numbers(labeled) == numbers(conversation.labeled())


def test_confidence_is_low_where_two_speak_at_once() -> None:
    turns = [Turn(0, 0.0, 40), Turn(1, 10.0, 40), Turn(0, 20.0, 50), Turn(1, 23.0, 10), Turn(1, 33.0, 40)]
    conversation = converse(turns, voices(2))
    labeled = conversation.labeled()
    sure = [s.speaker.confidence for s in labeled if s.speaker and not 21 < s.begin < 26]
    unsure = [s.speaker.confidence for s in labeled if s.speaker and 22 < s.begin < 25]
    assert min(sure) > 0.6
    assert max(unsure) < 0.5
    assert all(0 <= s.speaker.confidence <= 1 for s in labeled if s.speaker)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (SpeakerOptions(count=2), 2),
        (SpeakerOptions(count=4), 4),
        (SpeakerOptions(most=3), 3),
        (SpeakerOptions(most=9), 4),
        (SpeakerOptions(least=2), 4),
        (SpeakerOptions(least=3, most=4), 4),
        (SpeakerOptions(count=1), 1),
    ],
)
def test_the_number_of_speakers_can_be_given(options: SpeakerOptions, found: int) -> None:
    assert len(set(numbers(talk(4, 120, seed=2).labeled(options)))) == found


def test_voices_much_alike_are_told_apart_where_two_are_asked_for() -> None:
    one, other = voices(2, 3)
    turns = [Turn(index % 2, 5.5 * index, 16 + index % 7) for index in range(20)]
    alike = one * 0.8 + other * 0.2
    conversation = converse(turns, np.stack([one, alike / np.linalg.norm(alike)]), 3)
    assert set(numbers(conversation.labeled())) == {1}
    for options in (SpeakerOptions(count=2), SpeakerOptions(least=2)):
        assert error(conversation.labeled(options), conversation.truth) < 0.05


def test_known_voices_are_named() -> None:
    people = voices(3, 5)
    turns = [Turn(index % 3, 6.0 * index, 20) for index in range(12)]
    known = (
        Voiceprint("Nobody", _print(voices(1, 77)[0])),
        Voiceprint("Chen", _print(people[2])),
        Voiceprint("Ana", _print(people[0])),
    )
    labeled = converse(turns, people, 5).labeled(SpeakerOptions(known=known), language="en")
    speakers = {s.speaker.number: s.speaker for s in labeled if s.speaker}
    assert {number: speaker.name for number, speaker in speakers.items()} == {1: "Ana", 2: None, 3: "Chen"}
    assert {number: speaker.label for number, speaker in speakers.items()} == {
        1: "Ana",
        2: "Speaker 2",
        3: "Chen",
    }


def test_a_known_voice_is_given_to_one_speaker_only() -> None:
    people = voices(2, 5)
    between = people.sum(axis=0)
    turns = [Turn(index % 2, 6.0 * index, 20) for index in range(8)]
    known = (Voiceprint("Ana", _print(0.6 * people[0] + 0.4 * between)),)
    labeled = converse(turns, people, 5).labeled(SpeakerOptions(known=known))
    assert {s.speaker.name for s in labeled if s.speaker and s.speaker.number == 1} == {"Ana"}
    assert {s.speaker.name for s in labeled if s.speaker and s.speaker.number == 2} == {None}


def test_two_voices_that_are_surely_one_known_persons_are_one_speaker() -> None:
    person, other = voices(2, 8)
    moods = voices(2, 9)
    people = np.stack([person + 0.6 * moods[0], person + 0.6 * moods[1], other])
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    turns = [Turn(index % 3, 6.0 * index, 20) for index in range(12)]
    conversation = converse(turns, people, 8)
    strict = SpeakerTuning(similarity=0.6)
    assert len(set(numbers(conversation.labeled(tuning=strict)))) == 3
    known = (Voiceprint("Ana", _print(person)),)
    labeled = conversation.labeled(SpeakerOptions(known=known), strict)
    assert numbers(labeled) == [1 if voice < 2 else 2 for voice in conversation.truth]
    counted = conversation.labeled(SpeakerOptions(known=known, count=3), strict)
    assert len(set(numbers(counted))) == 3


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, people=st.integers(1, 4), order=st.randoms(use_true_random=False))
def test_the_order_of_windows_does_not_matter(seed: int, people: int, order: object) -> None:
    conversation = talk(people, 50, seed)
    shuffled = np.random.default_rng(seed).permutation(len(conversation.windows))
    diarizer = Diarizer(SpeakerOptions(), SpeakerTuning())
    for part in np.array_split(shuffled, 3):
        diarizer.add([conversation.windows[index] for index in part], conversation.embeddings[part])
    assert diarizer.label(conversation.sentences, "zh") == conversation.labeled()


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, people=st.integers(1, 4), silence=st.floats(0.5, 600))
def test_silence_before_changes_nothing(seed: int, people: int, silence: float) -> None:
    conversation = talk(people, 50, seed)
    assert numbers(conversation.later(silence).labeled()) == numbers(conversation.labeled())


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, people=st.integers(1, 4))
def test_hearing_all_twice_changes_nothing(seed: int, people: int) -> None:
    conversation = talk(people, 50, seed)
    once = numbers(conversation.labeled()) * 2
    twice = numbers(conversation.then(conversation.later(80)).labeled())
    assert set(twice) == set(once)
    # A word right at a change may go either way, since voices that were heard for longer are better known.
    assert sum(one != other for one, other in zip(once, twice, strict=True)) <= 0.02 * len(once)


def test_three_hours_take_little_memory() -> None:
    conversation = talk(6, 3 * 3600, seed=3)
    assert len(conversation.windows) > 12_000
    diarizer = Diarizer(SpeakerOptions(), SpeakerTuning())
    diarizer.add(conversation.windows, conversation.embeddings)
    tracemalloc.start()
    labeled = diarizer.label(conversation.sentences, "zh")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6
    assert len(set(numbers(labeled))) == 6
    assert error(labeled, conversation.truth) < 0.03


def test_each_window_needs_a_voice() -> None:
    conversation = talk(1, 5)
    with pytest.raises(ValueError, match="embeddings"):
        Diarizer(SpeakerOptions(), SpeakerTuning()).add(conversation.windows, conversation.embeddings[1:])


def _print(voice: np.ndarray) -> tuple[float, ...]:
    return tuple((voice / np.linalg.norm(voice)).tolist())
