"""Each row of the catalogue is loaded, with small random weights of its real class, or refused as it says."""

import asyncio
import copy
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.engines import read_wav
from benchmarks.full_size import PARAFORMER_STREAMING, write_checkpoint
from deployments.catalogue import ModelEntry, ModelRefused, load_catalogue
from deployments.engines.base import (
    EngineOptions,
    Hints,
    Pcm,
    PunctuationBlock,
    StreamChunk,
    VadBlock,
    VadOptions,
)
from deployments.engines.generative import AlignmentItem, SpeechPrompt
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from deployments.model_store import ModelMissing, find_model
from deployments.qwen3_store import find_qwen3
from serve_app.enabled_models import choose_models
from serve_app.errors import ModelNotFound
from serve_app.settings import Settings
from tests import (
    hotword_models,
    qwen3_tiny,
    sensevoice_tiny,
    test_paraformer_engine,
    test_punctuation_engine,
    test_punctuation_realtime_engine,
    test_speaker_engine,
    vad_models,
)
from tests.test_paraformer_en import write_english
from tests.test_paraformer_engine import TOKENS, speech_like
from tests.test_paraformer_streaming_engine import Script, alone, assert_same, load_funasr, spread_out

ROOT = Path(__file__).parents[1]
CATALOGUE = load_catalogue()
OPTIONS = EngineOptions(threads=1, precision="fp32", backend="torch")


def paraformer(directory: Path, kind: str, rate: int = 16_000) -> None:
    config = test_paraformer_engine.tiny_config(kind)
    config["frontend_conf"]["fs"] = rate
    write_checkpoint(directory, config, TOKENS, test_paraformer_engine.spread_out)


def streaming(directory: Path, *, width: int, layers: int) -> None:
    """As wide as given; ``layers`` of the decoder's three see what was said before."""
    config: dict[str, Any] = copy.deepcopy(PARAFORMER_STREAMING)
    config["encoder_conf"] |= {"output_size": width, "linear_units": 4 * width, "num_blocks": 3}
    config["decoder_conf"] |= {"linear_units": 4 * width, "num_blocks": 3, "att_layer_num": layers}
    config["predictor_conf"] |= {"idim": width}
    config["frontend_conf"] |= {"dither": 0.0}
    write_checkpoint(directory, config, TOKENS, spread_out, dtype=torch.float32)


def speaker(directory: Path, kind: str, conf: dict[str, Any]) -> None:
    test_speaker_engine.write(directory, kind, conf)


WRITE: dict[str, Callable[[Path], object]] = {
    "paraformer-large": lambda at: paraformer(at, "BiCifParaformer"),
    "paraformer": lambda at: paraformer(at, "Paraformer"),
    "seaco-paraformer": lambda at: hotword_models.write_tiny(at, "SeacoParaformer"),
    "contextual-paraformer": lambda at: hotword_models.write_tiny(at, "ContextualParaformer"),
    "paraformer-zh-spk": lambda at: paraformer(at, "BiCifParaformer"),
    "paraformer-en": write_english,
    "paraformer-8k": lambda at: paraformer(at, "Paraformer", 8000),
    "sensevoice-small": sensevoice_tiny.write_sensevoice,
    "qwen3-asr-1.7b": qwen3_tiny.write_tiny,
    "qwen3-asr-0.6b": qwen3_tiny.write_tiny,
    "paraformer-zh-streaming": lambda at: streaming(at, width=32, layers=3),
    "paraformer-zh-streaming-small": lambda at: streaming(at, width=20, layers=2),
    "fsmn-vad": vad_models.write_model,
    "fsmn-vad-8k": lambda at: vad_models.write_model(at, rate=8000),
    "ct-punc": test_punctuation_engine.write_model,
    "ct-punc-c": test_punctuation_engine.write_model,
    "ct-punc-realtime": test_punctuation_realtime_engine.write_model,
    "cam++": lambda at: speaker(at, "CAMPPlus", test_speaker_engine.CAMPPLUS_CONF),
    "eres2netv2": lambda at: speaker(at, "ERes2NetV2", test_speaker_engine.ERES2NET_CONF),
    "qwen3-forced-aligner-0.6b": lambda at: qwen3_tiny.write_tiny(at, aligner=True),
}
"""How a small checkpoint of each published model is made."""


def spoken() -> Pcm:
    return read_wav(sorted((ROOT / "samples").glob("*.wav"))[0])[: 16_000 * 8]


def audio(entry: ModelEntry) -> Pcm:
    """Speech for those models that were trained on such, what random weights say something to for others."""
    return speech_like(3, 1) if entry.path is None else spoken()


def recognized(entry: ModelEntry, directory: Path) -> bool:
    engine = import_module(f"deployments.engines.{entry.engine}").load(directory, OPTIONS)
    (one, _) = engine.transcribe([audio(entry), np.zeros(16_000, np.int16)], [Hints(), Hints()])
    return bool(one.words)


def followed(entry: ModelEntry, directory: Path) -> bool:
    engine = ParaformerStreamingEngine(directory, threads=1, precision="fp32")
    (result,) = engine.step([StreamChunk(audio(entry), None, True)])
    return bool(result.tokens)


def detected(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.vad_fsmn import FsmnVadEngine

    samples = vad_models.bursts(1, 20) if entry.path is None else spoken()
    (result,) = FsmnVadEngine(directory, threads=1).detect([VadBlock(samples, None, True, VadOptions())])
    return bool(result.spans)


def punctuated(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.punctuation_ct import CtPunctuationEngine

    ((marks),) = CtPunctuationEngine(directory, threads=1).punctuate([[*"今天天气很好我们去公园吧你说什么"]])
    return any(marks)


def punctuated_live(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine

    block = PunctuationBlock((*"今天天气很好我们去公园吧你说什么",))
    (result,) = CtRealtimePunctuationEngine(directory, threads=1).punctuate([block])
    return any(result.marks)


def embedded(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.speaker_torch import SpeakerTorchEngine

    voices = SpeakerTorchEngine(directory, threads=1, precision="fp32").embed([audio(entry)[:24_000]])
    return len(voices) == 1 and float(np.linalg.norm(voices[0])) == pytest.approx(1)


def written(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.qwen3_package import Qwen3PackageEngine

    async def hear() -> bool:
        engine = Qwen3PackageEngine(directory, threads=1, precision="fp32")
        try:
            said = await engine.transcribe(SpeechPrompt(audio(entry), max_tokens=8))
            return len(said.token_ids) > 0
        finally:
            await engine.aclose()

    return asyncio.run(hear())


def aligned(entry: ModelEntry, directory: Path) -> bool:
    from deployments.engines.qwen3_aligner import Qwen3AlignerEngine

    item = AlignmentItem(audio(entry), ("今", "天"), "Chinese")
    (times,) = Qwen3AlignerEngine(directory, threads=1, precision="fp32").align([item])
    return len(times) == 2


TRY: dict[str, Callable[[ModelEntry, Path], bool]] = {
    "paraformer": recognized,
    "sensevoice": recognized,
    "qwen3": written,
    "paraformer_streaming": followed,
    "vad_fsmn": detected,
    "punctuation_ct": punctuated,
    "punctuation_realtime": punctuated_live,
    "speaker_torch": embedded,
    "qwen3_aligner": aligned,
}
"""What each engine does with a bit of audio or text: whether anything came of it."""


def find(entry: ModelEntry, cache: Path) -> Path:
    if entry.engine == "qwen3" or entry.task == "aligner":
        return find_qwen3(entry.name, cache, aligner=entry.task == "aligner")
    return find_model(entry.name, cache)


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if entry.planned], ids=lambda entry: entry.name
)
def test_rows_without_an_engine_are_refused(entry: ModelEntry, tmp_path: Path) -> None:
    assert entry.engine is None
    with pytest.raises(ModelRefused, match="cannot be used"):
        entry.check_usable()
    with pytest.raises((ModelNotFound, ModelRefused)):
        choose_models(Settings(enabled_models=entry.name))


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if not entry.planned], ids=lambda entry: entry.name
)
def test_rows_are_loaded(entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HOME", "MODELSCOPE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))
    if entry.engine in ("qwen3", "qwen3_aligner") and not find_spec("qwen_asr"):
        pytest.skip("the qwen-asr package is not installed")
    if entry.path is None:
        with pytest.raises(ModelMissing, match=re.escape(entry.name)):
            find(entry, tmp_path)
        for place in (*entry.modelscope, *entry.huggingface)[:1]:
            WRITE[entry.name](tmp_path / place)
    assert TRY[str(entry.engine)](entry, find(entry, tmp_path))


def test_the_small_model_of_live_speech_gives_what_funasr_gives(tmp_path: Path) -> None:
    WRITE["paraformer-zh-streaming-small"](tmp_path)
    engine = ParaformerStreamingEngine(tmp_path, threads=1, precision="fp32")
    speech = speech_like(4, 2)
    script = Script([speech[begin : begin + 9600] for begin in range(0, len(speech), 9600)])
    expected = load_funasr(tmp_path)(script)
    assert_same(alone(engine, script), expected)
    assert sum(map(len, expected)) > 10


def test_every_published_row_has_a_checkpoint_and_no_other() -> None:
    assert WRITE.keys() == {entry.name for entry in CATALOGUE if not entry.planned and entry.path is None}
