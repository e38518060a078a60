"""Speakers of a live session, from made-up voices: numbers that stay, merges, names, bounds, doubt."""

import pickle
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import Embeddings
from serve_app.pipeline.live.events import SpeakersMerged
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.speakers.types import LabelStyle, SpeakerOptions, SpeakerTuning, Voiceprint
from serve_app.pipeline.types import Speaker

SIMILARITY = 0.5
ANN, BOB, CYD, DAN = np.eye(4, 64, dtype=np.float32)
"""Voices of which none is like another one."""


def unit(voice: Embeddings) -> Embeddings:
    shortened: Embeddings = voice / np.linalg.norm(voice, axis=-1, keepdims=True)
    return shortened


def like(voice: Embeddings, other: Embeddings, cosine: float) -> Embeddings:
    """A voice with that cosine to ``voice``, on the way to ``other``, which is at right angles to it."""
    mixed: Embeddings = (cosine * voice + np.sqrt(1 - cosine**2) * other).astype(np.float32)
    return mixed


class Talk:
    """A session. Windows of a voice are as far from it as those of real ones: cosine 0.8."""

    def __init__(self, options: SpeakerOptions | None = None, tuning: SpeakerTuning | None = None) -> None:
        self.speakers = LiveSpeakers(options or SpeakerOptions(), tuning or SpeakerTuning(SIMILARITY))
        self.merged: list[SpeakersMerged] = []
        self._rng = np.random.default_rng(0)

    def windows(self, voice: Embeddings, count: int) -> Embeddings:
        noise = unit(self._rng.normal(size=(count, len(voice))).astype(np.float32))
        return unit(voice + 0.75 * noise)

    def hear(self, windows: Embeddings, seconds: float, language: str = "zh") -> Speaker | None:
        speaker, merged = self.speakers.hear(windows, seconds, language)
        self.merged += merged
        return speaker

    def says(self, voice: Embeddings, seconds: float = 3.0, language: str = "zh") -> Speaker:
        speaker = self.hear(self.windows(voice, max(1, round(seconds / 0.75) - 1)), seconds, language)
        assert speaker is not None
        return speaker

    def until_merged(self, voice: Embeddings) -> Speaker:
        """Who is told to have said what brings two speakers together."""
        for _ in range(50):
            speaker = self.says(voice, 6.0)
            if self.merged:
                return speaker
        pytest.fail("nobody was merged")

    def numbers(self, *voices: Embeddings) -> list[int]:
        return [self.says(voice).number for voice in voices]


def test_numbers_are_in_the_order_of_speaking_and_stay() -> None:
    talk = Talk()
    assert talk.numbers(ANN, BOB, BOB, ANN, CYD, ANN, CYD, BOB) == [1, 2, 2, 1, 3, 1, 3, 2]
    assert talk.merged == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1.0, 20.0)), min_size=1, max_size=40))
def test_any_order_and_length_gives_the_same_speakers(sentences: list[tuple[int, float]]) -> None:
    talk, voices = Talk(), (ANN, BOB, CYD, DAN)
    told = [talk.says(voices[voice], seconds).number for voice, seconds in sentences]
    first = list(dict.fromkeys(voice for voice, _ in sentences))
    assert told == [first.index(voice) + 1 for voice, _ in sentences]


def test_what_is_held_does_not_grow_with_the_session() -> None:
    talk = Talk()
    rng = np.random.default_rng(1)

    def size_after(count: int) -> int:
        for voice in rng.integers(0, 4, count):
            talk.says((ANN, BOB, CYD, DAN)[voice])
        return len(pickle.dumps(talk.speakers))

    assert size_after(2000) <= size_after(100) + 64


def test_a_voice_that_changes_slowly_stays_the_same_speaker() -> None:
    talk = Talk()
    for _ in range(400):
        talk.says(ANN, 5.0)
    cosines = np.linspace(1, 0, 150)
    assert {talk.says(like(ANN, CYD, cosine), 5.0).number for cosine in cosines} == {1}
    assert talk.numbers(ANN) == [2]


def test_what_could_be_either_of_two_speakers_brings_them_no_nearer() -> None:
    talk = Talk()
    for voice in (ANN, BOB, *[like(ANN, BOB, 0.71)] * 30):
        assert talk.hear(voice[None], 6.0) is not None
    assert talk.merged == []
    assert talk.numbers(BOB, ANN) == [2, 1]


def test_two_who_were_heard_for_a_while_are_not_one_for_being_a_little_alike() -> None:
    talk = Talk()
    for cosine in (*np.linspace(0.3, SIMILARITY + 0.03, 20), *[SIMILARITY + 0.03] * 60):
        told = [talk.hear(voice[None], 6.0) for voice in (ANN, like(ANN, BOB, cosine))]
        assert [speaker and speaker.number for speaker in told] == [1, 2]
    assert talk.merged == []


def test_a_short_sentence_opens_no_speaker() -> None:
    talk = Talk()
    assert talk.hear(talk.windows(ANN, 1), 0.5) is None
    talk.says(ANN)
    doubtful = talk.says(BOB, 0.5)
    assert doubtful.number == 1
    assert doubtful.confidence <= 0.3
    assert talk.numbers(BOB, CYD) == [2, 3]


def test_a_short_sentence_that_is_clear_is_told_and_one_that_is_not_goes_to_who_spoke_before() -> None:
    talk = Talk()
    talk.numbers(ANN, BOB)
    clear = talk.says(ANN, 0.5)
    assert (clear.number, clear.confidence > 0.6) == (1, True)
    talk.says(BOB)
    doubtful = talk.hear(like(ANN, BOB, 0.72)[None], 0.5)
    assert doubtful is not None
    assert (doubtful.number, doubtful.confidence <= 0.3) == (2, True)


def test_a_stray_window_changes_nothing() -> None:
    talk = Talk()
    noise = np.eye(1, 64, 40, dtype=np.float32)
    for _ in range(5):
        speaker = talk.hear(np.concatenate((talk.windows(ANN, 4), noise)), 4.0)
        assert speaker is not None
        assert speaker.number == 1
    assert talk.numbers(BOB, ANN) == [2, 1]


def test_two_voices_in_one_sentence_are_no_third_one_and_nothing_is_learned_from_them() -> None:
    talk = Talk()
    talk.numbers(ANN, BOB)
    for _ in range(10):
        both = talk.hear(np.concatenate((talk.windows(CYD, 4), talk.windows(BOB, 4))), 6.0)
        assert both is not None
        assert both.number in (1, 2)
        assert both.confidence < 0.6
    assert talk.numbers(ANN, BOB, CYD) == [1, 2, 3]


def test_speakers_that_turn_out_to_be_one_are_merged_and_the_number_is_not_given_again() -> None:
    talk = Talk()
    hoarse = like(ANN, DAN, 0.4)
    assert talk.numbers(ANN, hoarse, BOB) == [1, 2, 3]
    # What lies between the two brings them together.
    assert talk.until_merged(like(ANN, DAN, 0.75)).number == 1
    (merged,) = talk.merged
    assert (merged.kept.number, merged.gone.number) == (1, 2)
    assert (merged.kept.label, merged.gone.label) == ("说话人1", "说话人2")
    assert talk.numbers(ANN, CYD, BOB, like(ANN, DAN, 0.75)) == [1, 4, 3, 1]
    assert talk.merged == [merged]


def test_who_spoke_last_is_remembered_under_the_number_that_stays() -> None:
    talk = Talk()
    hoarse = like(ANN, DAN, 0.4)
    talk.numbers(ANN, hoarse)
    talk.until_merged(like(ANN, DAN, 0.6))
    assert talk.says(CYD, 0.5).number == 1


def test_merged_speakers_are_known_by_what_either_said() -> None:
    talk = Talk()
    hoarse = like(ANN, DAN, 0.4)
    talk.says(ANN)
    for _ in range(10):
        assert talk.says(hoarse, 6.0).number == 2
    talk.until_merged(like(ANN, DAN, 0.7))
    assert [talk.says(hoarse, 6.0).number for _ in range(3)] == [1, 1, 1]


def test_who_spoke_is_told_as_they_are_after_the_merge() -> None:
    talk = Talk()
    talk.numbers(ANN, like(ANN, DAN, 0.4))
    speaker = talk.until_merged(like(ANN, DAN, 0.7))
    assert speaker.number == talk.merged[0].kept.number == 1


@pytest.mark.parametrize(
    "options", [SpeakerOptions(count=2), SpeakerOptions(most=2), SpeakerOptions(least=1, most=2)]
)
def test_there_are_no_more_speakers_than_there_may_be(options: SpeakerOptions) -> None:
    talk = Talk(options)
    numbers = talk.numbers(ANN, BOB, CYD, DAN, ANN, BOB)
    assert numbers[:2] == numbers[4:] == [1, 2]
    assert set(numbers) == {1, 2}


def test_one_speaker_is_certain_however_little_was_said() -> None:
    talk = Talk(SpeakerOptions(count=1))
    speakers = [talk.says(ANN, 0.3), talk.says(BOB), talk.says(CYD, 0.4)]
    assert {(speaker.number, speaker.confidence) for speaker in speakers} == {(1, 1.0)}


def test_there_are_no_fewer_speakers_than_there_must_be() -> None:
    talk = Talk(SpeakerOptions(least=2))
    talk.numbers(ANN, like(ANN, DAN, 0.4))
    for _ in range(30):
        talk.says(like(ANN, DAN, 0.7), 6.0)
    assert talk.merged == []


def test_two_who_are_alike_make_room_for_somebody_else() -> None:
    talk = Talk(SpeakerOptions(count=2))
    told = [talk.hear(voice[None], 3.0) for voice in (ANN, like(ANN, DAN, 0.47), BOB, ANN, BOB)]
    assert [speaker and speaker.number for speaker in told] == [1, 2, 3, 1, 3]
    assert [(merged.kept.number, merged.gone.number) for merged in talk.merged] == [(1, 2)]


def voiceprint(name: str, voice: Embeddings) -> Voiceprint:
    return Voiceprint(name, tuple(map(float, voice)))


def knowing(*known: Voiceprint) -> Talk:
    return Talk(SpeakerOptions(known=known))


def test_known_voices_have_their_names_from_the_begin() -> None:
    talk = knowing(voiceprint("Ann", ANN), voiceprint("Bob", BOB))
    told = [talk.says(voice) for voice in (CYD, BOB, ANN)]
    assert [(speaker.number, speaker.name, speaker.label) for speaker in told] == [
        (1, None, "说话人1"),
        (2, "Bob", "Bob"),
        (3, "Ann", "Ann"),
    ]


def test_a_name_may_come_later_and_then_stays() -> None:
    talk = knowing(voiceprint("Ann", ANN))
    names = [talk.says(like(ANN, DAN, cosine)).name for cosine in np.linspace(0.35, 0.9, 20)]
    assert names[0] is None
    assert names[-1] == "Ann"
    assert sum(before != after for before, after in pairwise(names)) == 1
    assert talk.says(like(ANN, DAN, 0.5)).name == "Ann"


def test_a_known_voice_is_not_taken_for_a_speaker_who_is_less_like_it() -> None:
    talk = knowing(voiceprint("Ann", ANN))
    assert talk.says(like(ANN, DAN, 0.0)).number == 1
    told = talk.says(like(ANN, DAN, 0.8))
    assert (told.number, told.name) == (2, "Ann")


def test_a_name_is_one_speakers() -> None:
    talk = knowing(voiceprint("Ann", ANN))
    told = [talk.says(voice).name for voice in (ANN, like(ANN, DAN, 0.3), like(ANN, CYD, 0.3))]
    assert told == ["Ann", None, None]


def test_two_who_are_known_are_two_however_alike() -> None:
    sister = like(ANN, BOB, 0.65)
    talk = knowing(voiceprint("Ann", ANN), voiceprint("Eve", sister))
    for _ in range(10):
        told = [talk.hear(voice[None], 6.0) for voice in (ANN, sister)]
        assert [speaker and (speaker.number, speaker.name) for speaker in told] == [(1, "Ann"), (2, "Eve")]
    assert talk.merged == []


def test_one_name_may_have_several_voices_and_its_first_spelling() -> None:
    talk = knowing(voiceprint("Ann", ANN), voiceprint("ANN", BOB))
    assert [talk.says(voice).label for voice in (BOB, ANN)] == ["Ann", "Ann"]
    assert talk.numbers(ANN, BOB, CYD) == [1, 1, 2]


def test_merged_speakers_keep_the_name_of_either() -> None:
    talk = knowing(voiceprint("Ann", like(ANN, DAN, 0.4)))
    first, second = talk.says(ANN), talk.says(like(ANN, DAN, 0.4))
    assert (first.name, second.name) == (None, "Ann")
    told = talk.until_merged(like(ANN, DAN, 0.75))
    assert (told.number, told.name) == (1, "Ann")
    assert talk.merged[0].kept.label == talk.merged[0].gone.label == "Ann"


@pytest.mark.parametrize(
    ("style", "languages", "labels"),
    [
        ("auto", ("en", "zh"), ["Speaker 1", "Speaker 2"]),
        ("auto", ("zh", "en"), ["说话人1", "说话人2"]),
        ("en", ("zh", "zh"), ["Speaker 1", "Speaker 2"]),
        ("zh", ("en", "en"), ["说话人1", "说话人2"]),
    ],
)
def test_labels_are_in_the_language_of_the_first_sentence(
    style: LabelStyle, languages: Sequence[str], labels: list[str]
) -> None:
    talk = Talk(tuning=SpeakerTuning(SIMILARITY, style))
    told = [talk.says(voice, 3.0, language) for voice, language in zip((ANN, BOB), languages, strict=True)]
    assert [speaker.label for speaker in told] == labels


def test_confidence_tells_how_near_it_was() -> None:
    talk = Talk()
    assert talk.says(ANN).confidence > 0.99
    talk.says(BOB)
    certain, likely, open_question = (
        talk.hear(like(ANN, other, cosine)[None], 2.0)
        for other, cosine in ((DAN, 0.98), (DAN, 0.58), (BOB, 0.72))
    )
    assert certain is not None
    assert likely is not None
    assert open_question is not None
    assert certain.confidence > 0.95 > likely.confidence > 0.6 > open_question.confidence
