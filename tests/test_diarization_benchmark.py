"""Conversations whose speakers are known, and how what was found of them is scored."""

import itertools
import statistics
import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.conversations.collection import Kind, Recording, Voices, collection, fingerprint, make
from benchmarks.conversations.recording import Truth, Turn, bridged
from benchmarks.conversations.speech import people
from benchmarks.diarization_score import Spoken, right_counts, score, together
from benchmarks.engines import ModelDirectories
from benchmarks.funasr_speakers import run_funasr_speakers
from benchmarks.speaker_cost import Rounds
from starter.campplus_speakers import training_speakers, unseen_speakers

STARTER = Path(__file__).parents[1] / "models" / "starter"

TRUTH = Truth(
    "talk",
    20.0,
    (
        Turn("a", "一。", ((1.0, 3.0), (3.2, 5.0))),
        Turn("b", "二。", ((4.0, 8.0),)),
        Turn("a", "三。", ((10.0, 15.0),)),
    ),
)
RIGHT = [Spoken(1, 5, "x"), Spoken(4, 8, "y"), Spoken(10, 15, "x")]


class TestTruth:
    def test_short_pauses_are_bridged_and_order_is_that_of_time(self) -> None:
        assert bridged([(2.5, 3.0), (0.0, 1.0), (1.25, 1.5), (1.4, 1.9)]) == ((0.0, 1.9), (2.5, 3.0))
        assert TRUTH.spans("a") == ((1.0, 5.0), (10.0, 15.0))
        assert TRUTH.speakers == ("a", "b")

    def test_overlap_counts_twice_as_speech(self) -> None:
        assert TRUTH.speech == 13
        assert TRUTH.overlap == 1

    def test_rttm_has_a_line_for_each_stretch(self) -> None:
        assert TRUTH.rttm().splitlines() == [
            "SPEAKER talk 1 1.000 4.000 <NA> <NA> a <NA> <NA>",
            "SPEAKER talk 1 4.000 4.000 <NA> <NA> b <NA> <NA>",
            "SPEAKER talk 1 10.000 5.000 <NA> <NA> a <NA> <NA>",
        ]

    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        TRUTH.write(tmp_path, "now")
        assert Truth.read(tmp_path / "talk.json") == TRUTH
        assert (tmp_path / "talk.rttm").read_text() == TRUTH.rttm()


class TestScore:
    def test_what_speakers_are_called_does_not_matter(self) -> None:
        found = score(TRUTH, RIGHT)
        assert found.strict.rate == found.lenient.rate == 0
        assert found.strict.total == 13
        assert found.right_count

    def test_each_kind_of_error(self) -> None:
        missed = score(TRUTH, RIGHT[:2]).strict
        assert (missed.missed, missed.false_alarm, missed.confusion) == (5, 0, 0)
        alarm = score(TRUTH, [*RIGHT, Spoken(16, 18, "y")]).strict
        assert (alarm.missed, alarm.false_alarm, alarm.confusion) == (0, 2, 0)
        confused = score(TRUTH, [*RIGHT[:2], Spoken(10, 15, "z")])
        # "z" says the longest turn of "a", so it is "a", and the first turn is somebody else's.
        assert (confused.strict.missed, confused.strict.confusion) == (0, 4)
        assert confused.strict.rate == 4 / 13
        assert confused.found == 3

    def test_nothing_found_and_nobody_there(self) -> None:
        assert score(TRUTH, []).strict.rate == 1
        empty = score(Truth("silence", 5.0, ()), [])
        assert empty.strict.rate == 0
        assert empty.right_count

    def test_the_collar_is_a_quarter_of_a_second_on_each_side(self) -> None:
        shifted = [Spoken(one.begin + 0.24, one.end + 0.24, one.speaker) for one in RIGHT]
        assert score(TRUTH, shifted).lenient.rate == 0
        assert score(TRUTH, shifted).strict.rate > 0.05
        far = [Spoken(one.begin + 0.5, one.end + 0.5, one.speaker) for one in RIGHT]
        assert score(TRUTH, far).lenient.rate > 0.05

    def test_a_speaker_who_overlaps_with_himself_counts_once(self) -> None:
        doubled = [*RIGHT, Spoken(1.5, 4.5, "x")]
        assert score(TRUTH, doubled).strict.rate == 0

    def test_several_recordings_weigh_as_much_as_they_have_speech(self) -> None:
        scores = [score(TRUTH, RIGHT), score(TRUTH, RIGHT[:2]), score(TRUTH, RIGHT[:1])]
        assert together(one.strict for one in scores).rate == (0 + 5 + 9) / 39
        assert right_counts(scores) == 2 / 3


def test_what_speakers_cost_is_told_of_medians_and_of_pairs() -> None:
    rounds = Rounds([100, 50, 200], [75, 40, 100])
    assert rounds.lost == pytest.approx(0.25)
    assert rounds.lost_in_pairs == pytest.approx([0.25, 0.2, 0.5])


class TestCollection:
    def test_forty_conversations_of_two_to_five_and_one_of_each_other_kind(self) -> None:
        kinds = [one.kind for one in collection()]
        assert kinds.count(Kind.CONVERSATION) == 40
        assert {kind: kinds.count(kind) for kind in Kind if kind is not Kind.CONVERSATION} == dict.fromkeys(
            ("alone", "word", "silence", "call", "long"), 1
        )
        counts = [one.speakers for one in collection() if one.kind is Kind.CONVERSATION]
        assert {count: counts.count(count) for count in range(2, 6)} == {2: 10, 3: 10, 4: 10, 5: 10}
        assert len({one.name for one in collection()}) == 45

    def test_voices_are_unheard_and_no_two_of_a_conversation_are_of_one_variant(self) -> None:
        heard = {speaker.voice.variant for speaker in training_speakers(0)}
        for seed in range(20):
            chosen = people(unseen_speakers(), 5, np.random.default_rng(seed))
            variants = {person.speaker.voice.variant for person in chosen}
            assert len(variants) == 5
            assert not variants & heard
            settings = {person.speaker.voice.pitch for person in chosen[:4]}
            assert len(settings) == 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Kind, Truth]]:
    directory = tmp_path_factory.mktemp("conversations")
    kinds = (Kind.CONVERSATION, Kind.WORD, Kind.SILENCE, Kind.CALL)
    recordings = [Recording(kind, 4 if kind is Kind.CONVERSATION else 0, Voices.TEST, 0) for kind in kinds]
    return directory, dict(zip(kinds, make(recordings, directory, processes=2), strict=True))


@pytest.mark.slow
class TestRecordings:
    def samples(self, directory: Path, truth: Truth) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
        with wave.open(str(directory / f"{truth.name}.wav")) as file:
            assert (file.getframerate(), file.getsampwidth()) == (16_000, 2)
            frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            return frames.reshape(-1, file.getnchannels())

    def test_conversations_sound_where_the_truth_says(self, made: tuple[Path, dict[Kind, Truth]]) -> None:
        directory, truths = made
        truth = truths[Kind.CONVERSATION]
        samples = self.samples(directory, truth)[:, 0].astype(float)
        assert len(samples) == truth.seconds * 16_000
        assert 60 <= truth.seconds <= 200
        assert len(truth.speakers) == 2
        assert all(sum(turn.speaker == speaker for turn in truth.turns) >= 2 for speaker in truth.speakers)
        speech = bridged(span for speaker in truth.speakers for span in truth.spans(speaker))
        loud = [samples[int(begin * 16_000) : int(end * 16_000)].std() for begin, end in speech]
        pauses = [(one[1] + 0.2, other[0] - 0.1) for one, other in itertools.pairwise(speech)]
        quiet = [
            samples[int(begin * 16_000) : int(end * 16_000)].std() for begin, end in pauses if end > begin
        ]
        assert statistics.median(loud) > 5 * statistics.median(quiet)

    def test_other_kinds(self, made: tuple[Path, dict[Kind, Truth]]) -> None:
        directory, truths = made
        assert [len(truths[kind].speakers) for kind in (Kind.WORD, Kind.SILENCE, Kind.CALL)] == [1, 0, 2]
        assert truths[Kind.WORD].speech < 1.5
        call = self.samples(directory, truths[Kind.CALL]).astype(float)
        assert call.shape[1] == 2
        for channel, speaker in enumerate(truths[Kind.CALL].speakers):
            (mine, other) = call[:, channel], call[:, 1 - channel]
            (other_speaker,) = set(truths[Kind.CALL].speakers) - {speaker}
            others = truths[Kind.CALL].spans(other_speaker)
            alone = (
                (begin, end)
                for begin, end in truths[Kind.CALL].spans(speaker)
                if end - begin > 1 and all(end < first or last < begin for first, last in others)
            )
            begin, end = next(alone)
            inside = slice(int(begin * 16_000), int(end * 16_000))
            assert mine[inside].std() > 3 * other[inside].std()

    def test_they_are_made_again_only_if_they_would_differ(
        self, made: tuple[Path, dict[Kind, Truth]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory, truths = made
        word = Recording(Kind.WORD, 0, Voices.TEST, 0)
        before = (directory / "word-00.wav").stat().st_mtime_ns
        assert make([word], directory) == [truths[Kind.WORD]]
        assert (directory / "word-00.wav").stat().st_mtime_ns == before
        assert make([word], tmp_path) == [truths[Kind.WORD]]
        assert (tmp_path / "word-00.wav").read_bytes() == (directory / "word-00.wav").read_bytes()
        (tmp_path / "word-00.json").write_text(
            (tmp_path / "word-00.json").read_text().replace(fingerprint(), "old")
        )
        (tmp_path / "word-00.wav").write_bytes(b"")
        make([word], tmp_path)
        assert (tmp_path / "word-00.wav").read_bytes() == (directory / "word-00.wav").read_bytes()

    @pytest.mark.long
    def test_funasr_tells_speakers_apart(self, made: tuple[Path, dict[Kind, Truth]]) -> None:
        directory, truths = made
        truth = truths[Kind.CONVERSATION]
        run = run_funasr_speakers(
            [directory / f"{truth.name}.wav"],
            ModelDirectories.under(STARTER),
            STARTER / "campplus",
            threads=1,
            mode="punc_segment",
        )
        (spoken,) = run.spoken
        assert run.audio_seconds == truth.seconds
        found = score(truth, spoken)
        assert found.found >= 2
        assert found.lenient.rate < 0.3
