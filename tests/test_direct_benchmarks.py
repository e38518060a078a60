"""The contenders of the file benchmark, and the checkpoints that it measures full size with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.engines import ModelDirectories, Worker, WorkerPool, duration, read_wav, run_engines
from benchmarks.full_size import PARAFORMER, PUNCTUATION, vocabulary, write_all, write_checkpoint
from benchmarks.funasr_pipeline import run_funasr
from benchmarks.make_speech import make_recording
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.punctuation_ct import CtPunctuationEngine
from serve_app.pipeline.segments import SegmentLimits
from tests.test_paraformer_engine import TOKENS, spread_out, tiny_config

STARTER = Path(__file__).parent.parent / "models" / "starter"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectories:
    """The starter models, but for a tiny recognizer with random weights."""
    paraformer = tmp_path_factory.mktemp("models") / "paraformer"
    write_checkpoint(paraformer, tiny_config("Paraformer"), TOKENS, spread_out)
    return ModelDirectories(STARTER / "fsmn-vad", paraformer, STARTER / "ct-punc")


@pytest.fixture(scope="module")
def recordings() -> list[Path]:
    return [make_recording(10, seed=seed) for seed in range(3)]


@pytest.mark.slow
def test_engines_give_the_same_texts_whatever_the_concurrency(
    models: ModelDirectories, recordings: list[Path]
) -> None:
    one = run_engines(recordings, models, cores=2, concurrency=1, limits=SegmentLimits(merge=3))
    many = run_engines(recordings, models, cores=1, concurrency=3, limits=SegmentLimits(merge=3))
    assert one.texts == many.texts
    assert len(set(one.texts)) == 3
    assert one.audio_seconds == sum(duration(file) for file in recordings)
    assert one.rtfx == one.audio_seconds / one.wall_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.long
def test_funasr_transcribes_all_files_in_order(
    models: ModelDirectories, recordings: list[Path], processes: int
) -> None:
    run = run_funasr(recordings, models, cores=2, processes=processes)
    assert run.audio_seconds == sum(duration(file) for file in recordings)
    assert run.wall_seconds > 0
    assert len(run.texts) == 3
    assert len(set(run.texts)) == 3


def test_a_failure_in_a_worker_reaches_the_caller(models: ModelDirectories, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    with (
        WorkerPool(models, 1, "fp32") as pool,
        pytest.raises(RuntimeError, match=r"worker process failed.*RIFF"),
    ):
        pool.call(Worker.segment, tmp_path / "text.wav", SegmentLimits())


def test_other_formats_are_refused(tmp_path: Path, recordings: list[Path]) -> None:
    import wave

    with wave.open(str(tmp_path / "stereo.wav"), "wb") as audio:
        audio.setnchannels(2)
        audio.setsampwidth(2)
        audio.setframerate(16_000)
        audio.writeframes(bytes(8))
    with pytest.raises(ValueError, match=r"stereo\.wav is not mono"):
        read_wav(tmp_path / "stereo.wav")
    assert len(read_wav(recordings[0])) == duration(recordings[0]) * 16_000


class TestFullSize:
    @pytest.mark.parametrize("size", [8404, 272_727])
    def test_vocabulary(self, size: int) -> None:
        tokens = vocabulary(size)
        assert len(set(tokens)) == len(tokens) == size
        assert tokens[:3] == ["<blank>", "<s>", "</s>"]
        assert tokens[-1] == "<unk>"
        assert {"中", "国", "a", "te@@"} <= set(tokens)

    def test_shapes_are_those_of_the_published_models(self) -> None:
        assert PARAFORMER["encoder_conf"]["num_blocks"] == 50
        assert PARAFORMER["decoder_conf"]["num_blocks"] == 16
        assert PUNCTUATION["encoder_conf"]["num_blocks"] == 4

    @pytest.mark.slow
    def test_checkpoints_load_and_speak_at_a_natural_rate(
        self, tmp_path: Path, recordings: list[Path], capfd: pytest.CaptureFixture[str]
    ) -> None:
        sizes = write_all(tmp_path)
        assert sizes["paraformer"] == pytest.approx(220e6, rel=0.01)
        assert sizes["ct-punc"] == pytest.approx(73e6, rel=0.01)
        engine = ParaformerTorchEngine(tmp_path / "paraformer", threads=2)
        samples = read_wav(recordings[0])
        words = engine.transcribe([samples])[0].words
        assert 2 * 10 < len(words) < 5 * 10
        punctuation = CtPunctuationEngine(tmp_path / "ct-punc", threads=2)
        marks = punctuation.punctuate([vocabulary(404)[3:403]])[0]
        assert 10 < sum(mark != "" for mark in marks) < 100

        from funasr import AutoModel

        options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "ncpu": 2, "device": "cpu"}
        model = AutoModel(model=str(tmp_path / "paraformer"), **options)
        assert "miss key" not in capfd.readouterr().out
        assert model.generate(input=samples[:48_000].astype(np.float32) / (1 << 15))[0]["text"]
        torch.set_num_threads(1)
