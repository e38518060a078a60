"""The Paraformer engine gives what FunASR gives on the same weights, and survives what FunASR does not."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.full_size import PARAFORMER, write_checkpoint
from deployments.engines.base import Pcm, Recognition, Word
from deployments.engines.cif import PeakTimes, integrate
from deployments.engines.loading import load_funasr_model
from deployments.engines.model_files import ModelFilesError, Parameters
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.precision import has_fast_bf16, resolve_precision
from deployments.engines.sanm import Linear, Placement
from deployments.engines.words import join_tokens

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳"
TOKENS = ["<blank>", "<s>", "</s>", *CHARACTERS, "7", "<unk>"]


def tiny_config(model: str) -> dict[str, Any]:
    config = copy.deepcopy(PARAFORMER)
    config["encoder_conf"] |= {"output_size": 32, "linear_units": 48, "num_blocks": 3}
    config["decoder_conf"] |= {"linear_units": 48, "num_blocks": 4, "att_layer_num": 3}
    config["predictor_conf"] |= {"idim": 32}
    config["frontend_conf"] |= {"dither": 0.0}
    if model == "BiCifParaformer":
        config |= {"model": model, "predictor": "CifPredictorV3"}
        config["predictor_conf"] |= {
            "smooth_factor2": 0.25,
            "noise_threshold2": 0.01,
            "upsample_times": 3,
            "use_cif1_cnn": False,
            "upsample_type": "cnn_blstm",
        }
    return config


def spread_out(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """Weights under which many different tokens come out, about five a second, clearly apart."""
    state["predictor.cif_output.bias"].fill_(-1.0)
    state["decoder.output_layer.weight"].mul_(20)
    # FunASR leaves <unk> out of the text but not out of the times, which then belong to other words.
    state["decoder.output_layer.bias"][tokens.index("<unk>")] = -1000


@pytest.fixture(scope="module", params=["Paraformer", "BiCifParaformer"])
def tiny_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_checkpoint(directory, tiny_config(request.param), TOKENS, spread_out, dtype=torch.float32)
    return directory


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> ParaformerTorchEngine:
    return ParaformerTorchEngine(tiny_dir, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def funasr(tiny_dir: Path) -> Callable[[Pcm], dict[str, Any]]:
    from funasr import AutoModel

    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    model = AutoModel(model=str(tiny_dir), log_level="ERROR", **options)

    def generate(samples: Pcm) -> dict[str, Any]:
        waveform = samples.astype(np.float32) / (1 << 15)
        result: dict[str, Any] = model.generate(input=waveform, output_timestamp=True)[0]
        return result

    return generate


def speech_like(seconds: float, seed: int) -> Pcm:
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16_000)
    syllables = np.repeat(rng.uniform(0, 1, samples // 3200 + 1), 3200)[:samples]
    tone = np.sin(np.cumsum(rng.uniform(0.05, 0.5, samples // 1600 + 1).repeat(1600)[:samples]))
    return np.asarray(8000 * syllables * tone + rng.normal(0, 100, samples)).astype(np.int16)


def texts(recognition: Recognition) -> list[str]:
    return [word.text for word in recognition.words]


lengths = st.one_of(st.floats(0.03, 0.5), st.floats(0.5, 8.0))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(durations=st.lists(lengths, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_a_batch_gives_what_funasr_gives_one_by_one(
    engine: ParaformerTorchEngine,
    funasr: Callable[[Pcm], dict[str, Any]],
    durations: list[float],
    seed: int,
) -> None:
    segments = [speech_like(seconds, seed + index) for index, seconds in enumerate(durations)]
    recognitions = engine.transcribe(segments)
    for segment, recognition in zip(segments, recognitions, strict=True):
        assert texts(recognition) == funasr(segment)["text"].split()


@pytest.mark.parametrize("seed", range(4))
def test_times_are_those_of_funasr(
    engine: ParaformerTorchEngine, funasr: Callable[[Pcm], dict[str, Any]], tiny_dir: Path, seed: int
) -> None:
    segment = speech_like(6, seed)
    words = engine.transcribe([segment])[0].words
    edges = [edge for word in words for edge in (word.begin_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= 6000
    if "BiCif" in (tiny_dir / "config.yaml").read_text("utf-8"):
        # Not for a plain Paraformer, whose weights and peaks FunASR mixes up: see TestIntegrateAndFire.
        expected = funasr(segment)["timestamp"]
        # To half a step of 20 ms, since FunASR rounds to whole ones.
        assert [max(begin, 0) for begin, _ in expected] == pytest.approx(edges[::2], abs=11)


def test_the_result_of_a_segment_does_not_depend_on_its_batch(engine: ParaformerTorchEngine) -> None:
    segment = speech_like(3, 1)
    alone = engine.transcribe([segment])[0]
    mates = [speech_like(seconds, 7) for seconds in (0.3, 60, 1, 90, 0.05)]
    for position in range(len(mates) + 1):
        batch = [*mates[:position], segment, *mates[position:]]
        among = engine.transcribe(batch)[position]
        assert texts(among) == texts(alone)
        for word, expected in zip(among.words, alone.words, strict=True):
            assert (word.begin_ms, word.end_ms) == (expected.begin_ms, expected.end_ms)
            assert word.log_prob == pytest.approx(expected.log_prob, abs=1e-3)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_segments_without_any_token_stay_empty_wherever_they_stand(
    engine: ParaformerTorchEngine, order: list[int]
) -> None:
    batch = [speech_like(2, 3), speech_like(0.03, 4), np.zeros(0, np.int16)]
    recognitions = engine.transcribe([batch[index] for index in order])
    assert [bool(recognition.words) for recognition in recognitions] == [index == 0 for index in order]


def test_empty_input(engine: ParaformerTorchEngine) -> None:
    assert engine.transcribe([]) == []
    nothing = [np.zeros(samples, np.int16) for samples in (0, 1, 399)]
    assert engine.transcribe(nothing) == [Recognition()] * 3


def test_the_same_samples_give_the_same_result_also_with_dither(tmp_path: Path) -> None:
    config = tiny_config("Paraformer")
    config["frontend_conf"]["dither"] = 1.0
    write_checkpoint(tmp_path, config, TOKENS, spread_out)
    first, second = (ParaformerTorchEngine(tmp_path, threads=1, precision="fp32") for _ in range(2))
    faint = (speech_like(4, 5) // 1000).astype(np.int16)
    assert first.transcribe([faint]) == first.transcribe([faint]) == second.transcribe([faint])


def test_log_probabilities_are_those_of_the_model(engine: ParaformerTorchEngine, tiny_dir: Path) -> None:
    words = engine.transcribe([speech_like(5, 11)])[0].words
    assert words
    assert all(-10 < word.log_prob <= 0 for word in words)
    assert len({word.log_prob for word in words}) > len(words) // 2


def test_bf16_recognizes_nearly_the_same(engine: ParaformerTorchEngine, tiny_dir: Path) -> None:
    segments = [speech_like(5, seed) for seed in range(6)]
    rounded = ParaformerTorchEngine(tiny_dir, threads=1, precision="bf16")
    assert rounded.dtype == torch.bfloat16
    pairs = [
        (word.text, other.text)
        for exact, approximate in zip(engine.transcribe(segments), rounded.transcribe(segments), strict=True)
        for word, other in zip(exact.words, approximate.words, strict=False)
    ]
    assert np.mean([word == other for word, other in pairs]) > 0.9


def test_fp16_files_load_as_fp32(tmp_path: Path) -> None:
    for name, dtype in (("full", torch.float32), ("half", torch.float16)):
        write_checkpoint(tmp_path / name, tiny_config("Paraformer"), TOKENS, spread_out, dtype=dtype)
    segment = speech_like(3, 1)
    half, full = (
        ParaformerTorchEngine(tmp_path / name, threads=1, precision="fp32").transcribe([segment])[0]
        for name in ("half", "full")
    )
    assert [word.log_prob for word in half.words] == pytest.approx(
        [word.log_prob for word in full.words], abs=0.1
    )


class TestIntegrateAndFire:
    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(frames=st.integers(1, 80), seed=st.integers(0, 10_000), tail=st.sampled_from([0.0, 0.45]))
    def test_equals_the_loop_of_funasr(self, frames: int, seed: int, tail: float) -> None:
        from funasr.models.bicif_paraformer.cif_predictor import cif

        generator = torch.Generator().manual_seed(seed)
        weights = torch.rand(frames, generator=generator) * 0.6
        hidden = torch.randn(frames, 5, generator=generator)
        complete = torch.cat([weights, torch.tensor([tail])])
        expected, _ = cif(torch.cat([hidden, torch.zeros(1, 5)])[None], complete[None], 1.0)
        embeddings = integrate(complete.double(), hidden)
        assert len(embeddings) == int(complete.sum())
        torch.testing.assert_close(embeddings, expected[0, : len(embeddings)], atol=1e-4, rtol=1e-4)

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(frames=st.integers(20, 200), seed=st.integers(0, 10_000), extra=st.integers(-1, 2))
    def test_times_are_within_half_a_step_of_those_of_funasr(
        self, frames: int, seed: int, extra: int
    ) -> None:
        from funasr.models.paraformer.cif_predictor import cif_wo_hidden
        from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard

        weights = torch.rand(frames, generator=torch.Generator().manual_seed(seed)) * 0.5
        peaks = cif_wo_hidden(weights[None].clone(), 1 - 1e-4)[0]
        tokens = max(1, int(weights.sum()) + extra)
        _, expected = ts_prediction_lfr6_standard(weights.clone(), peaks, ["x"] * tokens, upsample_rate=1)
        spans = PeakTimes(longest_ms=720).spans(
            weights.double().numpy(), tokens, step_ms=60, total_ms=60 * frames
        )
        for (begin, end), (expected_begin, expected_end) in zip(spans[:-1], expected, strict=False):
            assert (begin, end) == pytest.approx((max(expected_begin, 0), max(expected_end, 0)), abs=31)

    def test_times_of_a_known_rhythm(self) -> None:
        weights = np.full(40, 0.25)  # a token every 4 steps of 10 ms
        spans = PeakTimes(shift=-4).spans(weights, tokens=9, step_ms=10, total_ms=400)
        assert spans == [(40 * index, 40 * (index + 1)) for index in range(9)]

    def test_a_long_pause_does_not_stretch_the_token_before_it(self) -> None:
        weights = np.concatenate([np.full(8, 0.25), np.zeros(100), np.full(8, 0.25)])
        spans = PeakTimes(shift=0, longest_ms=720).spans(weights, tokens=3, step_ms=60, total_ms=7000)
        assert spans[1] == (8 * 60, (8 + 12) * 60)

    def test_no_more_time_than_the_segment_has(self) -> None:
        spans = PeakTimes(shift=-2).spans(np.full(4, 0.2), tokens=5, step_ms=60, total_ms=200)
        assert all(0 <= begin <= end <= 200 for begin, end in spans)
        assert PeakTimes().spans(np.zeros(4), tokens=0, step_ms=60, total_ms=240) == []
        assert len(PeakTimes().spans(np.zeros(4), tokens=2, step_ms=60, total_ms=240)) == 2


class TestWords:
    @pytest.mark.parametrize(
        ("tokens", "words"),
        [
            (["你", "好"], ["你", "好"]),
            (["hel@@", "lo", "你"], ["hello", "你"]),
            (["你", "hel@@", "lo", "wor@@", "ld"], ["你", "hello", "world"]),
            (["a", "b", "你", "a"], ["AB", "你", "a"]),
            (["hel@@", "你"], ["hel", "你"]),
            (["lo", "hel@@"], ["lo", "hel"]),
            (["<unk>", "你", "</s>", "<|zh|>"], ["你"]),
            (["7", "7", "hel@@", "7"], ["7", "7", "hel", "7"]),
            (["don@@", "'t"], ["don't"]),
            ([], []),
        ],
    )
    def test_joins_pieces(self, tokens: list[str], words: list[str]) -> None:
        given_words = [Word(token, 10 * at, 10 * at + 10, -1.0) for at, token in enumerate(tokens)]
        assert [word.text for word in join_tokens(given_words)] == words

    def test_a_joined_word_spans_its_tokens(self) -> None:
        joined = join_tokens([Word("hel@@", 0, 20, -0.5), Word("lo", 30, 60, -0.25)])
        assert joined == (Word("hello", 0, 60, -0.75),)


class TestDirectories:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        write_checkpoint(tmp_path / "model", tiny_config("Paraformer"), TOKENS, spread_out)
        return tmp_path / "model"

    @pytest.mark.parametrize("load", [lambda path: ParaformerTorchEngine(path, threads=1), load_funasr_model])
    @pytest.mark.parametrize("name", ["config.yaml", "model.pt", "tokens.json", "am.mvn"])
    def test_names_the_missing_file_and_the_remedy(
        self, directory: Path, name: str, load: Callable[[Path], object]
    ) -> None:
        (directory / name).unlink()
        with pytest.raises(ModelFilesError, match=rf"{name}.*missing.*Remedy"):
            load(directory)

    @pytest.mark.parametrize("name", ["config.yaml", "model.pt", "tokens.json", "am.mvn"])
    def test_names_the_damaged_file(self, directory: Path, name: str) -> None:
        (directory / name).write_bytes(b"\xff{[not it")
        with pytest.raises(ModelFilesError, match=name):
            ParaformerTorchEngine(directory, threads=1)

    def test_there_is_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFilesError, match="no such directory"):
            ParaformerTorchEngine(tmp_path / "none", threads=1)

    @pytest.mark.parametrize("load", [lambda path: ParaformerTorchEngine(path, threads=1), load_funasr_model])
    def test_parameters_that_do_not_fit_are_an_error(
        self, directory: Path, load: Callable[[Path], object]
    ) -> None:
        state = torch.load(directory / "model.pt")
        name = "encoder.encoders.0.self_attn.linear_out.weight"
        torch.save({**state, name: torch.zeros(3, 3)}, directory / "model.pt")
        with pytest.raises(ModelFilesError, match=rf"{name} has the shape \(3, 3\).*\(32, 32\)"):
            load(directory)
        del state[name]
        torch.save(state, directory / "model.pt")
        with pytest.raises(ModelFilesError, match=f"lacks the parameter {name}"):
            load(directory)

    @pytest.mark.parametrize("drop", ["decoder.embed.", "ctc."])
    def test_parameters_of_training_may_be_left_out(self, directory: Path, drop: str) -> None:
        state = torch.load(directory / "model.pt")
        kept = {name: value for name, value in state.items() if not name.startswith(drop)}
        torch.save({"state_dict": kept}, directory / "model.pt")
        assert load_funasr_model(directory).module is not None
        assert ParaformerTorchEngine(directory, threads=1).transcribe([speech_like(2, 0)])[0].words

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": "SenseVoiceSmall"}, "SenseVoiceSmall is not one of Paraformer"),
            ({"encoder": "ConformerEncoder"}, "encoder: ConformerEncoder is not supported"),
            ({"predictor": "CifPredictor"}, "predictor CifPredictor"),
            ({"tokenizer": None}, "names no tokenizer"),
        ],
    )
    def test_another_kind_of_model_is_refused(
        self, directory: Path, change: dict[str, Any], message: str
    ) -> None:
        import yaml

        config = yaml.safe_load((directory / "config.yaml").read_text("utf-8"))
        (directory / "config.yaml").write_text(yaml.safe_dump({**config, **change}), "utf-8")
        with pytest.raises(ModelFilesError, match=message):
            ParaformerTorchEngine(directory, threads=1)

    def test_files_may_have_other_names(self, directory: Path) -> None:
        expected = ParaformerTorchEngine(directory, threads=1).transcribe([speech_like(2, 0)])
        shutil.move(directory / "model.pt", directory / "weights.bin")
        shutil.move(directory / "tokens.json", directory / "vocabulary.json")
        metas = '{"init_param": "weights.bin", "tokenizer_conf": {"token_list": "vocabulary.json"}}'
        (directory / "configuration.json").write_text(f'{{"file_path_metas": {metas}}}', "utf-8")
        assert ParaformerTorchEngine(directory, threads=1).transcribe([speech_like(2, 0)]) == expected

    def test_the_loaded_network_is_that_of_funasr(
        self, directory: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        torch.manual_seed(1)
        expected_state = torch.get_rng_state()
        loaded = load_funasr_model(directory)
        assert capfd.readouterr() == ("", "")
        assert torch.equal(torch.get_rng_state(), expected_state)
        stored = torch.load(directory / "model.pt")
        for name, value in loaded.module.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, stored[name].float())


class TestPrecision:
    def test_auto_follows_the_processor(self) -> None:
        cpu = torch.device("cpu")
        expected = torch.bfloat16 if has_fast_bf16(cpu) else torch.float32
        assert resolve_precision("auto", cpu) == expected

    def test_asked_for_is_what_is_used(self) -> None:
        cpu = torch.device("cpu")
        assert resolve_precision("fp32", cpu) == torch.float32
        assert resolve_precision("bf16", cpu) == torch.bfloat16

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match="auto, fp32, bf16"):
            resolve_precision("int4", torch.device("cpu"))  # type: ignore[arg-type]  # what a typo in a config does

    @pytest.mark.parametrize("rows", [0, 1, 7, 600])
    def test_packed_weights_change_nothing(self, rows: int) -> None:
        weight, bias = torch.randn(48, 32), torch.randn(48)
        at = Placement(torch.bfloat16, torch.device("cpu"))
        linear = Linear.load(Parameters(Path("x"), {"a.weight": weight, "a.bias": bias}), "a", (48, 32), at)
        x = torch.randn(rows, 32).bfloat16()
        expected = torch.nn.functional.linear(x, weight.bfloat16(), bias.bfloat16())
        assert torch.equal(linear(x), expected)
        assert torch.equal(linear(x, relu=True), expected.relu())
        assert linear.weight.is_mkldnn == has_fast_bf16(at.device)
