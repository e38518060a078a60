"""Tests of Qwen3-ASR in the real vLLM, which has an environment of its own: `make test-vllm`.

Elsewhere, where vLLM is not installed, there is nothing here to run.
"""

from collections.abc import AsyncIterator
from importlib.util import find_spec

import psutil
import pytest_asyncio

from deployments.engines.qwen3_vllm import Qwen3VllmEngine
from tests.vllm.cases import MODEL

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[Qwen3VllmEngine]:
    """One engine for all tests, as it takes half a minute to start. After its end, no process is left."""
    running = await Qwen3VllmEngine.create(MODEL, precision="fp32", threads=2, memory=256 << 20)
    processes = engine_processes()
    assert len(processes) == 2, processes
    try:
        yield running
    finally:
        await running.aclose()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []


def engine_processes() -> list[psutil.Process]:
    """vLLM's processes that belong to this one: the engine core, and the worker that holds the model."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any(part.startswith("VLLM::") for part in process.cmdline())
    ]
