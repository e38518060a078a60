"""Qwen3-ASR in the real vLLM: the same text as by the qwen-asr package, many at once, and what goes wrong."""

import asyncio
import json
import random
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deployments.engines.base import SAMPLE_RATE
from deployments.engines.generative import WINDOW_SAMPLES, SpeechPrompt
from deployments.engines.qwen3_vllm import Qwen3VllmEngine
from tests.conftest import load_samples
from tests.vllm.cases import EXPECTED, prompts, sample, weights_digest
from tests.vllm.make_expected import kept

pytestmark = pytest.mark.asyncio(loop_scope="session")

PREFIX = 8


def expected() -> dict[str, Any]:
    made = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert made["weights"] == weights_digest(), "run `.venv/bin/python -m tests.vllm.make_expected`"
    answers: dict[str, Any] = made["answers"]
    return answers


@pytest.mark.parametrize("name", prompts())
async def test_the_answers_are_those_of_the_package(engine: Qwen3VllmEngine, name: str) -> None:
    theirs = expected()[name]
    ours = kept(await engine.transcribe(prompts()[name]))
    assert ours["text"] == theirs["text"]
    assert ours["token_ids"] == theirs["token_ids"]
    assert ours == {**theirs, "log_probs": pytest.approx(theirs["log_probs"], abs=0.02)}


async def test_prompts_that_run_together_are_answered_as_if_alone(engine: Qwen3VllmEngine) -> None:
    wanted = [prompt for name, prompt in prompts().items() if "noise" not in name]
    alone = [await engine.transcribe(prompt) for prompt in wanted]
    together = await asyncio.gather(*(engine.transcribe(prompt) for prompt in wanted * 2))
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone] * 2
    for one, other in zip(together, alone * 2, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=0.02)


async def test_a_stream_grows_to_the_same_answer(engine: Qwen3VllmEngine) -> None:
    prompt = prompts()["travel"]
    grown = [hypothesis async for hypothesis in engine.stream(prompt)]
    assert grown[-1] == await engine.transcribe(prompt)
    assert len(grown) == len(grown[-1].token_ids) + 1  # the end token is a step, too
    for before, after in pairwise(grown):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
        assert after.text.startswith(before.text)
    assert [hypothesis.finished for hypothesis in grown] == [False] * (len(grown) - 1) + [True]


async def test_going_on_from_tokens_gives_the_rest(engine: Qwen3VllmEngine) -> None:
    prompt = prompts()["meeting, two windows"]
    whole = await engine.transcribe(prompt)
    resumed = await engine.transcribe(replace(prompt, prefix=whole.token_ids[:PREFIX]))
    assert resumed.token_ids == whole.token_ids
    assert resumed.text == whole.text
    assert resumed.language == whole.language
    assert resumed.log_probs[:PREFIX] == (0.0,) * PREFIX
    assert resumed.log_probs[PREFIX:] == pytest.approx(whole.log_probs[PREFIX:], abs=0.02)


async def test_a_prefix_holds_even_where_the_model_would_not_say_it(engine: Qwen3VllmEngine) -> None:
    other = await engine.transcribe(prompts()["home"])
    answer = await engine.transcribe(replace(prompts()["travel"], prefix=other.token_ids[:PREFIX]))
    assert answer.token_ids[:PREFIX] == other.token_ids[:PREFIX]
    assert answer.text.startswith(other.text[:4])


async def test_a_growing_session_is_read_once(engine: Qwen3VllmEngine) -> None:
    """Of a prompt whose audio goes on, all whole windows are found in the cache."""
    speech = np.concatenate([sample("conversation"), sample("meeting"), sample("travel")])
    cached = []
    for seconds in range(2, 41, 2):
        request, _ = engine._request(SpeechPrompt(speech[: seconds * SAMPLE_RATE]))
        async with aclosing(engine._generate(request, 4, growing=False)) as outputs:
            (output,) = [output async for output in outputs]
        cached.append(output.num_cached_tokens)
    assert cached == sorted(cached)
    whole_windows = [seconds * SAMPLE_RATE // WINDOW_SAMPLES for seconds in range(0, 39, 2)]
    for count, windows in zip(cached, whole_windows, strict=True):
        # In blocks of 32 tokens; a window has 104.
        assert count >= windows * 104 // 32 * 32


async def test_twenty_minutes(engine: Qwen3VllmEngine) -> None:
    spoken = np.concatenate([sample(name) for name in ("conversation", "meeting", "travel", "home")])
    # The same five windows again and again, whose features are computed once.
    speech = np.tile(spoken[: 5 * WINDOW_SAMPLES], 31)
    answer = await engine.transcribe(SpeechPrompt(speech[: 1200 * SAMPLE_RATE], max_tokens=24))
    assert len(answer.token_ids) <= 24
    with pytest.raises(ValueError, match="20 minutes"):
        await engine.transcribe(SpeechPrompt(speech[: 1200 * SAMPLE_RATE + 1]))


async def test_what_is_canceled_leaves_the_model(engine: Qwen3VllmEngine) -> None:
    """At whatever moment, also while features are computed or a prompt is handed over."""
    rng = random.Random(3)
    for _ in range(4):
        noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 2000, 20 * SAMPLE_RATE)
        prompt = SpeechPrompt(noise.astype(np.int16), max_tokens=512)
        tasks = [asyncio.create_task(engine.transcribe(prompt)) for _ in range(8)]
        for task in tasks:
            await asyncio.sleep(rng.random() / 20)
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.done() for task in tasks)
        assert engine.unfinished == 0
        # What they left half-done, such as features that only one side knows, harms nobody after them.
        answer = await engine.transcribe(replace(prompt, max_tokens=2))
        assert 1 <= len(answer.token_ids) <= 2
    assert engine.unfinished == 0


async def test_a_stream_that_is_left_leaves_the_model(engine: Qwen3VllmEngine) -> None:
    async with aclosing(engine.stream(prompts()["conversation, three windows"])) as stream:
        async for _ in stream:
            assert engine.unfinished == 1
            break
    assert engine.unfinished == 0


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (SpeechPrompt(np.zeros(0, np.int16)), "no samples"),
        (SpeechPrompt(np.zeros((2, 8000), np.int16)), "one row"),
        (SpeechPrompt(np.zeros(8000, np.float32)), "int16"),
        (SpeechPrompt(np.zeros(8000, np.int16), language="Klingon"), "Klingon"),
    ],
)
async def test_what_cannot_be_decoded_is_refused(
    engine: Qwen3VllmEngine, prompt: SpeechPrompt, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        await engine.transcribe(prompt)
    await engine.check()


async def test_what_vllm_refuses_harms_no_other(engine: Qwen3VllmEngine) -> None:
    endless = SpeechPrompt(sample("home"), context="很" * 30_000)
    refused, answer = await asyncio.gather(
        engine.transcribe(endless), engine.transcribe(prompts()["home"]), return_exceptions=True
    )
    assert isinstance(refused, ValueError)
    assert not isinstance(answer, BaseException)
    assert answer.text == expected()["home"]["text"]
    assert engine.unfinished == 0
    await engine.check()


async def test_samples_are_recognized(engine: Qwen3VllmEngine) -> None:
    recorded = [one for one in load_samples() if one.path.stem in ("home", "travel")]
    assert recorded
    for one in recorded:
        heard = await engine.transcribe(SpeechPrompt(sample(one.path.stem)))
        assert heard.language == "Chinese"
        assert heard.finished
        assert heard.text
