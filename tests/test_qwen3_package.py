"""The package engine of Qwen3-ASR writes what the package itself writes, for many callers at once."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import EngineDied, Hypothesis, SpeechPrompt
from deployments.engines.model_files import ModelFilesError
from deployments.engines.qwen3_package import Qwen3PackageEngine
from deployments.engines.qwen3_prompt import AUDIO_PAD, prompt_text
from deployments.engines.qwen3_ragged import Part, RaggedModel
from deployments.engines.qwen3_scheduler import MAX_ROWS, Scheduler
from deployments.engines.qwen3_windows import windows_of
from tests.qwen3_tiny import STARTER, noise, write_tiny
from tests.vllm.cases import sample

pytestmark = pytest.mark.skipif(not find_spec("qwen_asr"), reason="the qwen-asr package is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("qwen3") / "asr")


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[Qwen3PackageEngine]:
    """The tests' own; what one of them left behind would fail the next."""
    yield from running(tiny)


def running(model_dir: Path, **settings: Any) -> Iterator[Qwen3PackageEngine]:
    engine = Qwen3PackageEngine(model_dir, threads=1, precision="fp32", **settings)
    try:
        yield engine
    finally:
        asyncio.run(engine.aclose())


@pytest.fixture
def fresh(tiny: Path) -> Iterator[Qwen3PackageEngine]:
    """An engine that may be broken, and remembers nothing."""
    yield from running(tiny)


@pytest.fixture(scope="module")
def package(tiny: Path) -> Any:
    return loaded_package(tiny)


def loaded_package(model_dir: Path) -> Any:
    from qwen_asr import Qwen3ASRModel

    return Qwen3ASRModel.from_pretrained(str(model_dir), max_new_tokens=40)


def floats(samples: Pcm) -> Any:
    return samples.astype(np.float32) / 32768


def close(one: Hypothesis, other: Hypothesis) -> bool:
    return one.token_ids == other.token_ids and np.allclose(one.log_probs, other.log_probs, atol=1e-3)


PROMPTS = [
    SpeechPrompt(noise(3.0, 1), max_tokens=40),
    SpeechPrompt(noise(8.0, 2), language="Chinese", max_tokens=40),
    SpeechPrompt(noise(0.6, 3), language="English", context="Anna, Müller", max_tokens=40),
    SpeechPrompt(noise(5.13, 4), context="人名", max_tokens=40),
]


@pytest.mark.parametrize("number", range(len(PROMPTS)))
async def test_tokens_are_those_of_the_package(engine: Qwen3PackageEngine, package: Any, number: int) -> None:
    prompt = PROMPTS[number]
    text = package._build_text_prompt(prompt.context, prompt.language)
    inputs = package.processor(text=[text], audio=[floats(prompt.samples)], return_tensors="pt")
    written = package.model.generate(**inputs, max_new_tokens=40).sequences[0, inputs["input_ids"].shape[1] :]
    hypothesis = await engine.transcribe(prompt)
    assert len(hypothesis.token_ids) > 5
    assert list(hypothesis.token_ids) == written.tolist()[: len(hypothesis.token_ids)]
    if not hypothesis.finished:
        assert len(set(hypothesis.token_ids[-20:])) == 1 or len(hypothesis.token_ids) == 40


async def test_what_the_starter_model_hears_is_what_the_package_hears(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    package = loaded_package(STARTER / "qwen3-asr")
    engine = Qwen3PackageEngine(STARTER / "qwen3-asr", threads=1, precision="fp32")
    try:
        for name in ("home", "travel", "meeting"):
            samples = sample(name)[: 8 * SAMPLE_RATE]
            for language in (None, "Chinese"):
                heard = await engine.transcribe(SpeechPrompt(samples, language, max_tokens=40))
                theirs = package.transcribe((floats(samples), SAMPLE_RATE), language=language)[0]
                assert (heard.text, heard.language or "") == (theirs.text, theirs.language)
                assert heard.text
    finally:
        await engine.aclose()


def reference(package: Any, prompt: SpeechPrompt, count: int) -> list[int]:
    """Greedy decoding of windows with the package's network, all of it again for each token."""
    thinker, processor = package.model.thinker, package.processor
    windows = [floats(window) for window in windows_of(prompt.samples)]
    text = prompt_text(len(windows), prompt.language, prompt.context)
    with torch.inference_mode():
        encoded = []
        for window in windows:
            features = processor.feature_extractor(window, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            mel = processor(text=AUDIO_PAD, audio=[window], return_tensors="pt")["input_features"][0]
            assert features["input_features"].shape[-1] >= mel.shape[1]
            encoded.append(
                thinker.audio_tower(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
            )
        for audio in encoded:
            text = text.replace(AUDIO_PAD, "<hold>" * len(audio), 1)
        ids = processor.tokenizer(text.replace("<hold>", AUDIO_PAD), return_tensors="pt")["input_ids"]
        embeddings = thinker.get_input_embeddings()(ids)
        embeddings[ids == thinker.config.audio_token_id] = torch.cat(encoded)
        written: list[int] = []
        for _ in range(count):
            hidden = thinker.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
            written.append(int(thinker.lm_head(hidden[0, -1]).argmax()))
            embeddings = torch.cat(
                [embeddings, thinker.get_input_embeddings()(torch.tensor([[written[-1]]]))], 1
            )
    return written


@pytest.mark.parametrize("seconds", [8.3, 21.0])
async def test_long_audio_is_read_in_windows(
    engine: Qwen3PackageEngine, package: Any, seconds: float
) -> None:
    prompt = SpeechPrompt(noise(seconds, 5), max_tokens=12)
    hypothesis = await engine.transcribe(prompt)
    assert list(hypothesis.token_ids) == reference(package, prompt, 12)
    assert len(set(hypothesis.token_ids)) > 1


async def test_calls_do_not_depend_on_each_other(engine: Qwen3PackageEngine, tiny: Path) -> None:
    random = np.random.default_rng(0)
    prompts = [
        SpeechPrompt(
            noise(float(random.uniform(0.1, 20)), seed),
            language=[None, "German"][seed % 2],
            context="x " * int(random.integers(0, 300)),
            max_tokens=int(random.integers(1, 40)),
        )
        for seed in range(MAX_ROWS + 8)
    ]
    together = await asyncio.gather(*map(engine.transcribe, prompts))
    for prompt, hypothesis in zip(prompts, together, strict=True):
        assert close(await engine.transcribe(prompt), hypothesis)
    assert engine.unfinished == 0


def test_calls_may_come_from_several_event_loops(engine: Qwen3PackageEngine) -> None:
    results: list[Hypothesis] = []

    def caller() -> None:
        results.append(asyncio.run(engine.transcribe(PROMPTS[0])))

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len({result.token_ids for result in results}) == 1


async def test_an_answer_may_begin_with_tokens_of_an_earlier_one(engine: Qwen3PackageEngine) -> None:
    prompt = SpeechPrompt(noise(9.0, 6), language="Chinese", max_tokens=20)
    whole = await engine.transcribe(prompt)
    prefix = whole.token_ids[:7]
    again = await engine.transcribe(
        SpeechPrompt(prompt.samples, "Chinese", prefix=prefix, max_tokens=20 - len(prefix))
    )
    assert again.token_ids == whole.token_ids
    assert again.log_probs[:7] == (0.0,) * 7
    assert np.allclose(again.log_probs[7:], whole.log_probs[7:], atol=1e-3)
    assert again.text == whole.text


class Work:
    """Counts what the model does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = self.tokens = 0
        encode, forward = RaggedModel.encode, RaggedModel.forward

        def counting_encode(model: RaggedModel, windows: Sequence[Pcm]) -> list[torch.Tensor]:
            self.windows += len(windows)
            return encode(model, windows)

        def counting_forward(model: RaggedModel, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
            self.tokens += sum(len(part.embeddings) for part in parts)
            return forward(model, parts)

        monkeypatch.setattr(RaggedModel, "encode", counting_encode)
        monkeypatch.setattr(RaggedModel, "forward", counting_forward)


async def test_a_step_of_a_live_sentence_costs_the_same_in_its_second_minute(
    fresh: Qwen3PackageEngine, engine: Qwen3PackageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = noise(64.0, 7)
    expected = {
        second: await engine.transcribe(SpeechPrompt(speech[: second * SAMPLE_RATE], max_tokens=3))
        for second in (5, 29, 61)
    }
    work = Work(monkeypatch)
    for second in range(1, 65, 2):
        work.windows = work.tokens = 0
        hypothesis = await fresh.transcribe(SpeechPrompt(speech[: second * SAMPLE_RATE], max_tokens=3))
        assert work.windows <= 2
        assert work.tokens <= 2 * 104 + 40
        if second in expected:
            assert close(hypothesis, expected[second])


async def test_a_tenth_of_a_second_is_enough(engine: Qwen3PackageEngine) -> None:
    hypothesis = await engine.transcribe(SpeechPrompt(noise(0.1), max_tokens=5))
    assert 0 < len(hypothesis.token_ids) <= 5


async def test_twenty_minutes_are_not_too_much(fresh: Qwen3PackageEngine) -> None:
    long = asyncio.create_task(fresh.transcribe(SpeechPrompt(noise(1200.0), max_tokens=3)))
    await asyncio.sleep(0)
    await fresh.transcribe(SpeechPrompt(noise(1.0), max_tokens=3))
    assert not long.done()
    assert len((await long).token_ids) <= 3


async def test_loops_end_early(engine: Qwen3PackageEngine) -> None:
    hypotheses = await asyncio.gather(
        *(engine.transcribe(SpeechPrompt(noise(4.0, seed), "Chinese", max_tokens=2000)) for seed in range(6))
    )
    looping = [hypothesis for hypothesis in hypotheses if not hypothesis.finished]
    looping = [hypothesis for hypothesis in looping if len(hypothesis.token_ids) < 2000]
    assert looping
    assert all(len(hypothesis.text) < len(hypothesis.token_ids) - 15 for hypothesis in looping)


async def test_a_stream_tells_what_is_written(engine: Qwen3PackageEngine) -> None:
    prompt = SpeechPrompt(noise(8.0, 2), language="Chinese", max_tokens=30)
    told = [hypothesis async for hypothesis in engine.stream(prompt)]
    assert len(told) > 2
    for earlier, later in pairwise(told):
        assert earlier.token_ids == later.token_ids[: len(earlier.token_ids)]
        assert not earlier.finished
    assert told[-1] == await engine.transcribe(prompt)


async def idle(engine: Qwen3PackageEngine) -> None:
    for _ in range(500):
        if engine.unfinished == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{engine.unfinished} calls still hold a place")


async def test_canceled_calls_free_their_places(fresh: Qwen3PackageEngine) -> None:
    endless = [SpeechPrompt(noise(30.0, seed), max_tokens=4000) for seed in range(MAX_ROWS + 4)]
    calls = [asyncio.create_task(fresh.transcribe(prompt)) for prompt in endless]
    stream = fresh.stream(endless[0])
    await anext(stream)
    for call in calls:
        call.cancel()
    await stream.aclose()
    await asyncio.gather(*calls, return_exceptions=True)
    await idle(fresh)
    await fresh.check()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (SpeechPrompt(noise(1.0)[:0]), "no samples"),
        (SpeechPrompt(noise(1201.0)), "too long"),
        (SpeechPrompt(noise(1.0), language="Klingon"), "no language 'Klingon'"),
        (SpeechPrompt(noise(1.0), max_tokens=0), "max_tokens"),
        (SpeechPrompt(noise(1.0), prefix=(10**6,)), "vocabulary"),
        (SpeechPrompt(noise(1.0), prefix=(-1,)), "vocabulary"),
        (SpeechPrompt(noise(1.0), context="long " * 20_000), "the model can take"),
    ],
)
async def test_prompts_that_cannot_be_decoded_are_refused(
    engine: Qwen3PackageEngine, prompt: SpeechPrompt, message: str
) -> None:
    good = asyncio.create_task(engine.transcribe(PROMPTS[0]))
    with pytest.raises(ValueError, match=message):
        await engine.transcribe(prompt)
    assert (await good).token_ids
    assert engine.unfinished == 0


async def test_an_error_of_the_model_hurts_only_its_own_call(
    engine: Qwen3PackageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await asyncio.gather(*map(engine.transcribe, PROMPTS))
    forward = RaggedModel.forward

    def failing(model: RaggedModel, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
        if any(part.memory.length > 5000 for part in parts):
            raise MemoryError("too long")
        return forward(model, parts)

    monkeypatch.setattr(RaggedModel, "forward", failing)
    bad = SpeechPrompt(noise(1.0), context="long " * 1500)
    results = await asyncio.gather(*map(engine.transcribe, [bad, *PROMPTS]), return_exceptions=True)
    assert isinstance(results[0], MemoryError)
    for hypothesis, wanted in zip(results[1:], expected, strict=True):
        assert isinstance(hypothesis, Hypothesis)
        assert close(hypothesis, wanted)


async def test_calls_that_find_no_memory_wait(tiny: Path, engine: Qwen3PackageEngine) -> None:
    small = Qwen3PackageEngine(tiny, threads=1, precision="fp32", memory_bytes=400 * 512)
    prompts = [SpeechPrompt(noise(12.0, seed), max_tokens=5) for seed in range(6)]
    try:
        for prompt, hypothesis in zip(
            prompts, await asyncio.gather(*map(small.transcribe, prompts)), strict=True
        ):
            assert close(hypothesis, await engine.transcribe(prompt))
    finally:
        await small.aclose()


async def test_an_engine_whose_thread_died_says_so(
    fresh: Qwen3PackageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fresh.check()

    def broken(_: Scheduler) -> None:
        raise SystemError("gone")

    monkeypatch.setattr(Scheduler, "step", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(EngineDied, match="closed"):
        await fresh.transcribe(PROMPTS[0])
    with pytest.raises(EngineDied, match="closed"):
        await fresh.check()
    with pytest.raises(EngineDied, match="closed"):
        await fresh.transcribe(PROMPTS[0])
    assert fresh.unfinished == 0


async def test_closing_ends_what_runs(fresh: Qwen3PackageEngine) -> None:
    stream = fresh.stream(SpeechPrompt(noise(8.0), max_tokens=4000))
    await anext(stream)
    await fresh.aclose()
    with pytest.raises(EngineDied, match="closed"):
        _ = [hypothesis async for hypothesis in stream]
    await fresh.aclose()
    assert fresh.unfinished == 0


async def test_bf16_writes_something_alike(tiny: Path, engine: Qwen3PackageEngine) -> None:
    rough = Qwen3PackageEngine(tiny, threads=1, precision="bf16")
    try:
        prompt = SpeechPrompt(noise(9.0, 8), max_tokens=1)
        exact, rounded = await engine.transcribe(prompt), await rough.transcribe(prompt)
        assert rounded.log_probs[0] == pytest.approx(exact.log_probs[0], abs=0.5)
    finally:
        await rough.aclose()


def test_directories_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    def load(directory: Path) -> None:
        Qwen3PackageEngine(directory, threads=1)

    with pytest.raises(ModelFilesError, match="cannot be read"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelFilesError, match="does not describe"):
        load(write_tiny(tmp_path / "aligner", aligner=True))
    converted = tmp_path / "hf"
    converted.mkdir()
    (converted / "config.json").write_text(
        json.dumps({"model_type": "qwen3_asr", "audio_config": {}}), "utf-8"
    )
    with pytest.raises(ModelFilesError, match="thinker_config"):
        load(converted)
    incomplete = write_tiny(tmp_path / "incomplete")
    config = json.loads((incomplete / "config.json").read_text("utf-8"))
    config["thinker_config"]["text_config"]["num_hidden_layers"] += 1
    (incomplete / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelFilesError, match="lacks weights"):
        load(incomplete)
    with pytest.raises(ValueError, match="threads"):
        Qwen3PackageEngine(tiny, threads=0)
