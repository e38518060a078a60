"""The streaming engine gives each stream what FunASR gives it alone, whatever else is in the batch."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.full_size import PARAFORMER_STREAMING, write_checkpoint
from deployments.engines.base import Pcm, StreamChunk, StreamOptions, StreamState, Token
from deployments.engines.model_files import ModelFilesError
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from tests.test_paraformer_engine import TOKENS, speech_like

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "models" / "starter" / "paraformer-streaming"

GAIN = 1
TOLERANCE = 2e-3

Scored = tuple[str, float]
Reference = Callable[["Script"], list[list[Scored]]]


@dataclass(frozen=True)
class Script:
    """A stream: its packets, the last of which is final."""

    packets: list[Pcm]
    options: StreamOptions = StreamOptions()


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
    """Weights under which many different tokens come out, in some chunks none, clearly apart."""
    for name, value in state.items():
        if name.endswith(("w_1.weight", "w_2.weight", "linear_q_k_v.weight", "linear_k_v.weight")):
            value.mul_(GAIN)
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
    engine: ParaformerStreamingEngine, scripts: list[Script], order: Iterator[list[int]]
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
    assert [[token.text for token in call] for call in calls] == [[text for text, _ in call] for call in expected]
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
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(streams=st.lists(scripts(), min_size=1, max_size=5), data=st.data())
def test_interleaved_streams_give_what_funasr_gives_each_alone(
    engine: ParaformerStreamingEngine, funasr: Reference, streams: list[Script], data: st.DataObject
) -> None:
    subsets = st.lists(st.integers(0, len(streams) - 1), min_size=1, unique=True)
    results = run(engine, streams, iter(lambda: data.draw(subsets), None))
    for script, result in zip(streams, results, strict=True):
        assert_same(result, funasr(script))
