"""SenseVoice's engines give what FunASR gives on the same weights; what they make of its tags and tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
import yaml

from deployments.engines.base import AsrEngine, EngineOptions, Hints, Pcm, Recognition, Word
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import find_exporter, quantize_graph, write_graph
from deployments.engines.sensevoice import load
from deployments.engines.sensevoice_onnx import SenseVoiceOnnxEngine
from deployments.engines.sensevoice_text import Vocabulary, heard_tokens, recognition_of
from deployments.engines.sensevoice_torch import SenseVoiceTorchEngine
from tests.sensevoice_tiny import PIECES, speech_like, write_pieces, write_sensevoice

LANGUAGES = ["auto", "zh", "en", "yue", "ja", "ko"]
FRAME_MS = 60.0


def hints(language: str = "auto", *, itn: bool = True) -> Hints:
    return Hints(language=None if language == "auto" else language, itn=itn)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "SenseVoiceSmall"
    write_sensevoice(directory)
    return directory


@pytest.fixture(scope="module")
def graphs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an ONNX directory, without PyTorch's weights."""
    directory = tmp_path_factory.mktemp("models") / "SenseVoiceSmall-onnx"
    directory.mkdir()
    for name in ("config.yaml", "configuration.json", "am.mvn", PIECES):
        (directory / name).write_bytes((tiny / name).read_bytes())
    (part,) = find_exporter(tiny).parts(tiny)
    write_graph(part, directory)
    return directory


@pytest.fixture(scope="module")
def engine(tiny: Path) -> AsrEngine:
    return load(tiny, EngineOptions(threads=1, precision="fp32"))


@pytest.fixture(scope="module")
def onnx(graphs: Path) -> AsrEngine:
    return load(graphs, EngineOptions(threads=1))


@pytest.fixture(scope="module")
def funasr(tiny: Path) -> Callable[..., str]:
    from funasr import AutoModel

    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    model = AutoModel(model=str(tiny), log_level="ERROR", **options)

    def generate(samples: Pcm, language: str, *, use_itn: bool) -> str:
        waveform = samples.astype(np.float32) / (1 << 15)
        text: str = model.generate(input=waveform, language=language, use_itn=use_itn)[0]["text"]
        return text

    return generate


@pytest.mark.parametrize("itn", [True, False])
@pytest.mark.parametrize("language", LANGUAGES)
def test_both_engines_write_what_funasr_writes(
    engine: AsrEngine, onnx: AsrEngine, funasr: Callable[..., str], language: str, itn: bool
) -> None:
    assert (type(engine), type(onnx)) == (SenseVoiceTorchEngine, SenseVoiceOnnxEngine)
    segments = [speech_like(seconds, seed) for seed, seconds in enumerate((0.03, 0.4, 5, 2.2))]
    given = [hints(language, itn=itn)] * len(segments)
    expected = [funasr(segment, language, use_itn=itn) for segment in segments]
    found = engine.transcribe(segments, given)
    assert [one.raw for one in found] == expected
    graph = onnx.transcribe(segments, given)
    assert [one.raw for one in graph] == expected
    # The graph is made of FunASR's own modules.
    probable, exact = ([word.log_prob for one in each for word in one.words] for each in (found, graph))
    assert probable == pytest.approx(exact, abs=8e-5)
    assert all("<|" not in word.text + word.mark for one in found for word in one.words)


def test_language_and_spelling_of_each_segment_count(engine: AsrEngine) -> None:
    segment = speech_like(4, 3)
    given = [hints(language, itn=itn) for language in LANGUAGES for itn in (True, False)]
    together = engine.transcribe([segment] * len(given), given)
    assert len({one.raw for one in together}) == len(given)
    assert together[0].raw == engine.transcribe([segment])[0].raw
    unknown = engine.transcribe([segment], [Hints(language="fr")])[0]
    assert unknown.raw == together[0].raw


def test_the_result_of_a_segment_does_not_depend_on_its_batch(engine: AsrEngine) -> None:
    segment = speech_like(3, 1)
    (alone,) = engine.transcribe([segment], [hints("ja")])
    mates = [speech_like(seconds, 7) for seconds in (0.3, 60, 1, 90, 0.01, 0)]
    for position in (0, 3, len(mates)):
        batch = [*mates[:position], segment, *mates[position:]]
        among = engine.transcribe(batch, [hints()] * position + [hints("ja")] + [hints()] * (6 - position))
        assert among[position].raw == alone.raw
        pairs = zip(among[position].words, alone.words, strict=True)
        assert all(one.log_prob == pytest.approx(other.log_prob, abs=1e-3) for one, other in pairs)
        assert [one.begin_ms for one in among[position].words] == [one.begin_ms for one in alone.words]


def test_times_lie_in_the_segment_and_in_order(engine: AsrEngine) -> None:
    words = engine.transcribe([speech_like(6, 2)])[0].words
    edges = [edge for word in words for edge in (word.begin_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= 6000
    assert all(word.log_prob <= 0 for word in words)


@pytest.mark.parametrize("which", ["engine", "onnx"])
def test_too_little_audio_holds_nothing(request: pytest.FixtureRequest, which: str) -> None:
    found = request.getfixturevalue(which).transcribe([np.zeros(0, np.int16), np.zeros(300, np.int16)])
    assert found == [Recognition(), Recognition()]
    assert request.getfixturevalue(which).transcribe([]) == []


def test_in_bf16_most_stays_the_same(tiny: Path, engine: AsrEngine) -> None:
    coarse = load(tiny, EngineOptions(threads=1, precision="bf16"))
    segment = speech_like(5, 4)
    pair = [one.transcribe([segment])[0] for one in (engine, coarse)]
    texts = [{(word.begin_ms, word.text) for word in found.words} for found in pair]
    assert len(texts[0] & texts[1]) > 0.7 * len(texts[0])


def test_an_int8_graph_is_taken_first_and_keeps_most(graphs: Path, engine: AsrEngine, tiny: Path) -> None:
    exporter = find_exporter(tiny)
    (part,) = exporter.parts(tiny)
    quantized = quantize_graph(part, graphs / "model.onnx")
    try:
        coarse = load(graphs, EngineOptions(threads=1, backend="onnx"))
    finally:
        quantized.unlink()
    segments = [speech_like(seconds, 5) for seconds in (4, 7)]
    fine, found = ([one.transcribe([each])[0] for each in segments] for one in (engine, coarse))
    words = [[[word.text + word.mark for word in one.words] for one in side] for side in (fine, found)]
    # Random weights have no margins; what was learnt has.
    assert 0 < exporter.compare(*words).value < 0.6
    assert exporter.compare(words[0], words[0]).value == 0
    # Also of an int8 graph, the result of a segment is its own.
    assert coarse.transcribe(segments) == found


# --- Tokens


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    path = tmp_path_factory.mktemp("pieces") / PIECES
    write_pieces(path, byte_fallback=True)
    return Vocabulary(path)


def heard(vocabulary: Vocabulary, tags: str, text: str, given: Hints | None = None) -> Recognition:
    """As if a model had written ``tags`` at its queries, then a token each 240 ms, from 120 ms on (the first
    one is the space before the text)."""
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.Load(str(vocabulary.path))
    spoken = [token for token in pieces.EncodeAsIds(text) for token in (token, 0, 0, 0)]
    frames = [*pieces.PieceToId(tags.replace("><", "> <").split()), 0, 0, *spoken]
    tokens = heard_tokens(frames, [-0.5 if token else 0.0 for token in frames])
    return recognition_of(tokens, vocabulary, len(frames) - 4, FRAME_MS, given or Hints())


def shown(words: Sequence[Word]) -> list[str]:
    return [word.text + word.mark for word in words]


def test_tags_become_language_emotion_and_events(vocabulary: Vocabulary) -> None:
    found = heard(vocabulary, "<|yue|><|HAPPY|><|Laughter|><|withitn|>", "我们今天去北京，你好吗？")
    assert shown(found.words) == ["我", "们", "今", "天", "去", "北", "京，", "你", "好", "吗？"]
    assert (found.language, found.emotion, found.events) == ("yue", "happy", ("laughter",))
    assert found.punctuated
    assert found.raw is not None
    assert found.raw.startswith("<|yue|><|HAPPY|><|Laughter|><|withitn|>")
    plain = heard(vocabulary, "<|en|><|EMO_UNKNOWN|><|Speech|><|woitn|>", "hello", hints(itn=False))
    assert (plain.language, plain.emotion, plain.events) == ("en", None, ())
    assert not plain.punctuated


def test_without_speech_there_are_no_words(vocabulary: Vocabulary) -> None:
    found = heard(vocabulary, "<|nospeech|><|EMO_UNKNOWN|><|Applause|><|woitn|>", "hello.")
    assert found.words == ()
    assert (found.language, found.emotion, found.events) == (None, None, ("applause",))
    noise = heard(vocabulary, "<|en|><|EMO_UNKNOWN|><|Event_UNK|><|withitn|>", "The.")
    assert (noise.words, noise.language) == ((), None)
    assert shown(heard(vocabulary, "<|en|><|NEUTRAL|><|Speech|><|withitn|>", "The end.").words) == [
        "The",
        "end。",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello world, it's a test.", ["hello", "world，", "it's", "a", "test。"]),
        ("三点五是3.5，百分之五是5%。", [*"三点五是", "3.5，", *"百分之五是", "5%。"]),
        ("今日はいい天気ですね。", [*"今日はいい天気です", "ね。"]),
        ("안녕하세요 여러분", ["안녕하세요", "여러분"]),
        ("我们zebra龘", ["我", "们", "zebra", "龘"]),  # the last one byte by byte
    ],
)
def test_pieces_become_words(vocabulary: Vocabulary, text: str, expected: list[str]) -> None:
    words = heard(vocabulary, "<|zh|><|NEUTRAL|><|Speech|><|withitn|>", text).words
    assert shown(words) == expected
    edges = [edge for word in words for edge in (word.begin_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert all(word.log_prob < 0 for word in words)


def test_words_have_the_times_of_their_tokens(vocabulary: Vocabulary) -> None:
    first, *_ = heard(vocabulary, "<|zh|><|NEUTRAL|><|Speech|><|withitn|>", "吗吗吗").words
    assert (first.begin_ms, first.end_ms, first.log_prob) == (330, 390, -0.5)


def test_tokens_lie_where_funasr_aligns_them() -> None:
    from funasr.models.sense_voice.utils.ctc_alignment import ctc_forced_align

    rng = np.random.default_rng(5)
    frames: list[int] = []
    for _ in range(30):
        frames += [int(rng.integers(1, 20))] * int(rng.integers(1, 4)) + [0] * int(rng.integers(1, 5))
    scores = torch.from_numpy(rng.normal(0, 1, (1, len(frames), 20))).float()
    scores[0, torch.arange(len(frames)), torch.tensor(frames)] += 12
    log_probs = scores.log_softmax(-1)
    best = log_probs[0].max(-1)
    found = heard_tokens(best.indices.tolist(), best.values.tolist())
    targets = torch.tensor([[token.token for token in found]])
    lengths = torch.tensor([len(frames)]), torch.tensor([targets.shape[1]])
    aligned = ctc_forced_align(log_probs, targets.clone(), *lengths)[0].tolist()
    assert [(token.token, token.begin, token.end) for token in found] == [
        (run.token, run.begin, run.end) for run in heard_tokens(aligned, [0.0] * len(frames))
    ]


# --- Directories


@pytest.mark.parametrize("name", ["config.yaml", "model.pt", "am.mvn", PIECES])
def test_a_missing_file_is_named(tiny: Path, tmp_path: Path, name: str) -> None:
    for path in tiny.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelFilesError, match=name.replace(".", r"\.")):
        load(tmp_path, EngineOptions(threads=1, backend="torch" if name == "model.pt" else "auto"))


@pytest.mark.parametrize("which", ["tiny", "graphs"])
def test_another_kind_of_model_is_refused(request: pytest.FixtureRequest, tmp_path: Path, which: str) -> None:
    for path in request.getfixturevalue(which).iterdir():
        if path.name != "config.yaml":
            (tmp_path / path.name).symlink_to(path)
    config = yaml.safe_load((request.getfixturevalue(which) / "config.yaml").read_text("utf-8"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"model": "Paraformer"}), "utf-8")
    with pytest.raises(ModelFilesError, match="Paraformer is not supported, only SenseVoiceSmall"):
        load(tmp_path, EngineOptions(threads=1))


def test_a_vocabulary_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        if path.name != PIECES:
            (tmp_path / path.name).symlink_to(path)
    write_pieces(tmp_path / PIECES, byte_fallback=True)
    with pytest.raises(ModelFilesError, match="ctc_lo"):
        load(tmp_path, EngineOptions(threads=1))
    (tmp_path / PIECES).write_bytes(b"nonsense")
    with pytest.raises(ModelFilesError, match=r"spectok\.bpe\.model"):
        load(tmp_path, EngineOptions(threads=1))
