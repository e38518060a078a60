"""The streaming engine gives each stream what FunASR gives it alone, whatever else is in the batch."""

import copy
import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.engines import read_wav
from benchmarks.full_size import PARAFORMER_STREAMING, write_checkpoint
from deployments.engines.base import Pcm, StreamChunk, StreamingAsrEngine, StreamOptions, StreamState, Token
from deployments.engines.model_files import ModelFilesError
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from deployments.engines.row_pool import Lease
from tests.test_paraformer_engine import TOKENS, speech_like

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "models" / "starter" / "paraformer-streaming"

TOLERANCE = 2e-3
"""Of log-probabilities, which differ by 0.2 from token to token, and by 1e-4 from FunASR's."""

Scored = tuple[str, float]
Reference = Callable[["Script"], list[list[Scored]]]


@dataclass(frozen=True)
class Script:
    """A stream: its packets, the last of which is final."""

    packets: list[Pcm]
    options: StreamOptions = field(default_factory=StreamOptions)


def config_of(variant: str) -> dict[str, Any]:
    config = copy.deepcopy(PARAFORMER_STREAMING)
    config["encoder_conf"] |= {"output_size": 32, "linear_units": 48, "num_blocks": 3}
    config["decoder_conf"] |= {"linear_units": 48, "num_blocks": 3, "att_layer_num": 3}
    config["predictor_conf"] |= {"idim": 32}
    config["frontend_conf"] |= {"dither": 0.0}
    if variant == "centered":
        config["encoder_conf"] |= {"sanm_shfit": 3}
        config["decoder_conf"] |= {"num_blocks": 5, "att_layer_num": 3, "sanm_shfit": 0}
        config["predictor_conf"] |= {"l_order": 1, "smooth_factor": 0.9, "noise_threshold": 0.02}
    return config


def spread_out(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """Weights under which some chunks hold many tokens and others none, and their probabilities differ."""
    state["predictor.cif_output.weight"].mul_(8)
    state["predictor.cif_output.bias"].fill_(-1.5)
    state["decoder.output_layer.weight"].mul_(20)


def load_funasr(directory: Path) -> Reference:
    """What FunASR's generate gives one stream: the tokens of each call, with their log-probabilities."""
    from funasr import AutoModel

    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    model = AutoModel(model=str(directory), log_level="ERROR", **options)

    # FunASR makes words of the tokens and drops their scores, so both are noted on their way.
    decode = model.model.cal_decoder_with_predictor_chunk
    heard: list[Scored] = []

    def noting(*args: Any, **kwargs: Any) -> Any:
        scores, lengths = decode(*args, **kwargs)
        best = scores[0].max(dim=-1)
        names = model.kwargs["tokenizer"].ids2tokens(best.indices.tolist())
        pairs = zip(best.indices.tolist(), names, best.values.tolist(), strict=True)
        heard.extend((name, score) for token, name, score in pairs if token > 2)
        return scores, lengths

    model.model.cal_decoder_with_predictor_chunk = noting

    def generate(script: Script) -> list[list[Scored]]:
        calls: list[list[Scored]] = []
        cache: dict[str, Any] = {}
        for index, packet in enumerate(script.packets):
            heard.clear()
            (result,) = model.generate(
                input=packet.astype(np.float32) / (1 << 15),
                cache=cache,
                is_final=index == len(script.packets) - 1,
                chunk_size=list(script.options.chunk_size),
                encoder_chunk_look_back=script.options.encoder_chunk_look_back,
                decoder_chunk_look_back=script.options.decoder_chunk_look_back,
            )
            spoken = "".join(name for name, _ in heard if name != "<unk>")
            assert result["text"].replace(" ", "") == spoken
            calls.append(list(heard))
        return calls

    return generate


def run(
    engine: StreamingAsrEngine, scripts: list[Script], order: Iterator[list[int]]
) -> list[list[list[Token]]]:
    """The tokens of each call for each stream; ``order`` says which streams the next step takes along."""
    results: list[list[list[Token]]] = [[] for _ in scripts]
    states: list[StreamState | None] = [None] * len(scripts)
    while any(len(result) < len(script.packets) for result, script in zip(results, scripts, strict=True)):
        chosen = [index for index in next(order) if len(results[index]) < len(scripts[index].packets)]
        chunks = [
            StreamChunk(
                scripts[index].packets[len(results[index])],
                states[index],
                len(results[index]) == len(scripts[index].packets) - 1,
                scripts[index].options,
            )
            for index in chosen
        ]
        for index, result in zip(chosen, engine.step(chunks), strict=True):
            results[index].append(list(result.tokens))
            states[index] = result.state
    for script, state in zip(scripts, states, strict=True):
        assert state is None, script
    return results


def alone(engine: ParaformerStreamingEngine, script: Script) -> list[list[Token]]:
    return run(engine, [script], iter(lambda: [0], None))[0]


def assert_same(calls: list[list[Token]], expected: list[list[Scored]]) -> None:
    texts = [[token.text for token in call] for call in calls]
    assert texts == [[text for text, _ in call] for call in expected]
    scores = [token.log_prob for call in calls for token in call]
    assert scores == pytest.approx([score for call in expected for _, score in call], abs=TOLERANCE)


@pytest.fixture(scope="module", params=["published", "centered"])
def tiny_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_checkpoint(directory, config_of(request.param), TOKENS, spread_out, dtype=torch.float32)
    return directory


@pytest.fixture(scope="module")
def engine(tiny_dir: Path) -> ParaformerStreamingEngine:
    return ParaformerStreamingEngine(tiny_dir, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def funasr(tiny_dir: Path) -> Reference:
    return load_funasr(tiny_dir)


def packets(samples: Pcm, size: int) -> list[Pcm]:
    return np.split(samples, range(size, len(samples), size))


chunk_sizes = st.sampled_from([(0, 10, 5), (0, 8, 4), (5, 10, 5), (8, 8, 4), (0, 5, 5), (2, 1, 3)])
option_sets = st.builds(
    StreamOptions, chunk_sizes, st.sampled_from([4, 1, 0, 2, -1]), st.sampled_from([1, 0, 4, -1])
)
boundaries = st.sampled_from([0, 1, 959, 960, 961, 4800, 9599, 9600, 9601, 10559, 10560, 19200])
packet_sizes = st.one_of(boundaries, st.integers(0, 25_000))


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    sizes = draw(st.lists(packet_sizes, min_size=1, max_size=6))
    total = sum(sizes)
    kind = draw(st.sampled_from(["speech", "speech", "silence", "half"]))
    samples = np.zeros(total, np.int16)
    if kind != "silence":
        samples = speech_like((total + 2) / 16_000, draw(st.integers(0, 1000)))[:total]
    if kind == "half":
        samples[total // 3 : 2 * total // 3] = 0
    return Script(np.split(samples, np.cumsum(sizes)[:-1]), draw(option_sets))


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(streams=st.lists(scripts(), min_size=1, max_size=5), data=st.data())
@pytest.mark.slow
def test_interleaved_streams_give_what_funasr_gives_each_alone(
    engine: ParaformerStreamingEngine, funasr: Reference, streams: list[Script], data: st.DataObject
) -> None:
    subsets = st.lists(st.integers(0, len(streams) - 1), min_size=1, unique=True)
    results = run(engine, streams, iter(lambda: data.draw(subsets), None))
    for script, result in zip(streams, results, strict=True):
        assert_same(result, funasr(script))


@pytest.mark.parametrize("total", [0, 1, 959, 960, 9599, 9600, 9601, 10_559, 10_560, 19_200])
@pytest.mark.parametrize("chunk_size", [(0, 10, 5), (8, 8, 4)])
def test_streams_end_as_in_funasr_wherever_they_end(
    engine: ParaformerStreamingEngine, funasr: Reference, total: int, chunk_size: tuple[int, int, int]
) -> None:
    script = Script([speech_like(2, total)[:total]], StreamOptions(chunk_size))
    assert_same(alone(engine, script), funasr(script))


def test_a_long_stream_gives_what_funasr_gives(engine: ParaformerStreamingEngine, funasr: Reference) -> None:
    script = Script(packets(speech_like(40, 3), 9600))
    calls = alone(engine, script)
    assert_same(calls, funasr(script))
    assert sum(map(len, calls)) > 40


@pytest.mark.parametrize("seed", range(4))
def test_times_increase_within_what_was_heard(engine: ParaformerStreamingEngine, seed: int) -> None:
    script = Script(packets(speech_like(6, seed), 3000))
    heard_ms = 0.0
    edges: list[float] = [0]
    for packet, call in zip(script.packets, alone(engine, script), strict=True):
        heard_ms += len(packet) / 16
        edges += [edge for token in call for edge in (token.begin_ms, token.end_ms)]
        assert edges[-1] <= heard_ms
    assert edges == sorted(edges)
    assert edges[-1] > 5000


def test_packets_of_any_size_give_the_same_tokens(engine: ParaformerStreamingEngine) -> None:
    samples = speech_like(5, 8)
    expected = [token for call in alone(engine, Script(packets(samples, 9600))) for token in call]
    for size in (160, 7777, 80_000):
        calls = alone(engine, Script(packets(samples, size)))
        for token, other in zip((token for call in calls for token in call), expected, strict=True):
            assert token.text == other.text
            assert token.begin_ms == pytest.approx(other.begin_ms, abs=1)
            assert token.log_prob == pytest.approx(other.log_prob, abs=TOLERANCE)


def test_a_step_can_be_repeated_with_the_same_states(engine: ParaformerStreamingEngine) -> None:
    streams = [packets(speech_like(6, seed), 9600) for seed in range(5)]
    states: list[StreamState | None] = [None] * len(streams)
    spoken = 0
    for turn in range(9):
        chunks = [
            StreamChunk(stream[turn], state, final=False)
            for stream, state in zip(streams, states, strict=True)
        ]
        results = engine.step(chunks)
        # What other streams do meanwhile must not show in states that are still held.
        engine.step([StreamChunk(speech_like(3, turn), None, final=False) for _ in range(7)])
        again = engine.step(chunks)
        for result, other in zip(results, again, strict=True):
            assert result.tokens == other.tokens
        engine.step([StreamChunk(chunk.samples[::-1], chunk.state, chunk.final) for chunk in chunks])
        states = [result.state for result in again]
        spoken += sum(len(result.tokens) for result in results)
    assert spoken > 20


def test_streams_that_were_dropped_leave_no_memory_behind(tiny_dir: Path) -> None:
    engine = ParaformerStreamingEngine(tiny_dir, threads=1, precision="fp32")

    def lent() -> int:
        pools = [item for item in gc.get_objects() if type(item) is Lease]
        return sum(len(lease.rows) for lease in pools)

    gc.collect()
    before = lent()
    samples = speech_like(2, 1)
    states = [engine.step([StreamChunk(samples, None, final=False)])[0].state for _ in range(20)]
    assert lent() > before + 20 * 15
    states.clear()
    assert lent() == before


@pytest.mark.parametrize(
    "options",
    [
        StreamOptions((0, 0, 0)),
        StreamOptions((-1, 10, 5)),
        StreamOptions((0, 10, -5)),
        StreamOptions((0, 10, 1000)),
        StreamOptions((0, 10, 5), encoder_chunk_look_back=-2),
        StreamOptions((0, 10, 5), encoder_chunk_look_back=1_000_000),
        StreamOptions((0, 10, 5), decoder_chunk_look_back=1_000_000),
        StreamOptions((0, 10)),  # type: ignore[arg-type]  # as a client may have sent it
        StreamOptions((0, 9.5, 5)),  # type: ignore[arg-type]
    ],
)
def test_senseless_options_are_refused(engine: ParaformerStreamingEngine, options: StreamOptions) -> None:
    with pytest.raises(ValueError, match=r"chunk_size must|chunk_look_back must"):
        engine.step([StreamChunk(speech_like(1, 1), None, final=False, options=options)])


def test_a_stream_keeps_its_options_and_its_engine(engine: ParaformerStreamingEngine, tiny_dir: Path) -> None:
    samples = speech_like(1, 1)
    state = engine.step([StreamChunk(samples, None, final=False)])[0].state
    with pytest.raises(ValueError, match="cannot go on with"):
        engine.step([StreamChunk(samples, state, final=False, options=StreamOptions((0, 8, 4)))])
    with pytest.raises(ValueError, match="not one of this engine's"):
        ParaformerStreamingEngine(tiny_dir, threads=1).step([StreamChunk(samples, state, final=False)])
    with pytest.raises(ValueError, match="one row of int16"):
        engine.step([StreamChunk(samples.astype(np.float32), state, final=False)])


@pytest.mark.parametrize("chunk_size", [(0, 10, 0), (0, 1, 0), (5, 5, 0)])
def test_without_look_ahead_streams_do_not_depend_on_each_other(
    engine: ParaformerStreamingEngine, chunk_size: tuple[int, int, int]
) -> None:
    # FunASR takes a right context of 0 for all there is.
    streams = [
        Script(packets(speech_like(seconds, 3), 5000), StreamOptions(chunk_size))
        for seconds in (0.3, 0.6, 2.4)
    ]
    together = run(engine, streams, iter(lambda: [0, 1, 2], None))
    for script, calls in zip(streams, together, strict=True):
        expected = [[(token.text, token.log_prob) for token in call] for call in alone(engine, script)]
        assert_same(calls, expected)
    assert any(together[2])


def test_dither_does_not_depend_on_how_a_stream_is_cut(tmp_path: Path) -> None:
    config = config_of("published")
    config["frontend_conf"] |= {"dither": 1.0}
    write_checkpoint(tmp_path, config, TOKENS, spread_out, dtype=torch.float32)
    engine = ParaformerStreamingEngine(tmp_path, threads=1, precision="fp32")
    silence = np.zeros(60_000, np.int16)
    first, second = (alone(engine, Script(packets(silence, size))) for size in (9600, 1234))
    texts = [[token.text for call in calls for token in call] for calls in (first, second)]
    assert texts[0] == texts[1]
    assert texts[0]


def test_another_model_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    config = (tiny_dir / "config.yaml").read_text("utf-8")
    shutil.copytree(tiny_dir, tmp_path / "model")
    for entry, other in (
        ("model: ParaformerStreaming", "model: Paraformer"),
        ("encoder: SANMEncoderChunkOpt", "encoder: SANMEncoder"),
        ("input_layer: pe_online", "input_layer: pe"),
        ("lfr_n: 6", "lfr_n: 1"),
    ):
        assert entry in config
        (tmp_path / "model" / "config.yaml").write_text(config.replace(entry, other), "utf-8")
        with pytest.raises(ModelFilesError, match=r"config\.yaml"):
            ParaformerStreamingEngine(tmp_path / "model", threads=1)


@pytest.fixture(scope="module")
def recordings() -> list[Pcm]:
    return [read_wav(file)[: 16_000 * 12] for file in sorted((ROOT / "samples").glob("*.wav"))]


def test_the_starter_model_gives_what_funasr_gives(recordings: list[Pcm]) -> None:
    engine = ParaformerStreamingEngine(STARTER, threads=1, precision="fp32")
    funasr = load_funasr(STARTER)
    streams = [
        Script(packets(recording, size), StreamOptions(chunk_size))
        for recording, size in zip(recordings, (1600, 3200, 9600, 4321), strict=True)
        for chunk_size in ((0, 10, 5), (5, 10, 5), (0, 8, 4))
    ]
    turns = np.random.default_rng(0)
    results = run(
        engine, streams, iter(lambda: np.flatnonzero(turns.random(len(streams)) < 0.7).tolist(), None)
    )
    for script, calls in zip(streams, results, strict=True):
        assert_same(calls, funasr(script))
        assert sum(map(len, calls)) > 10


def test_bf16_changes_few_tokens(recordings: list[Pcm]) -> None:
    texts = []
    everybody = list(range(len(recordings)))
    for precision in ("fp32", "bf16"):
        engine = ParaformerStreamingEngine(STARTER, threads=1, precision=precision)
        streams = [Script(packets(recording, 9600)) for recording in recordings]
        results = run(engine, streams, iter(lambda: everybody, None))
        texts.append([token.text for calls in results for call in calls for token in call])
    changed = sum(a != b for a, b in zip_longest(*texts))
    assert changed <= 0.05 * len(texts[0])
