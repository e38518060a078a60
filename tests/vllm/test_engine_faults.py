"""vLLM's processes: what is left of them when they are killed, or when a start fails."""

import asyncio
from collections.abc import AsyncGenerator

import psutil
import pytest

from deployments.engines.generative import EngineDied, Hypothesis
from deployments.engines.qwen3_vllm import Qwen3VllmEngine
from tests.vllm.cases import MODEL, prompts
from tests.vllm.conftest import engine_processes

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_start_that_fails_half_way_leaves_no_process() -> None:
    others = set(engine_processes())
    with pytest.raises(RuntimeError, match="initialization failed"):
        await Qwen3VllmEngine.create(MODEL, memory=1 << 20)  # not enough for a single long prompt
    left = [process for process in engine_processes() if process not in others]
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []


async def test_an_engine_whose_process_is_killed_says_so() -> None:
    others = set(engine_processes())
    engine = await Qwen3VllmEngine.create(MODEL, memory=256 << 20)
    processes = [process for process in engine_processes() if process not in others]
    streams = [engine.stream(prompts()["conversation, three windows"]) for _ in range(4)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert engine.unfinished == len(streams)
    next(process for process in processes if "EngineCore" in process.cmdline()[0]).kill()
    for outcome in await asyncio.gather(*map(_rest, streams), return_exceptions=True):
        assert isinstance(outcome, EngineDied)
    with pytest.raises(EngineDied):
        await engine.check()
    with pytest.raises(EngineDied):
        await engine.transcribe(prompts()["home"])
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineDied):
        await engine.check()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


async def _rest(stream: AsyncGenerator[Hypothesis, None]) -> list[Hypothesis]:
    return [hypothesis async for hypothesis in stream]
