"""The engines of Qwen3-ASR for benchmarks, and the way in which others decode a growing recording."""

import asyncio
import contextlib
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import GenerativeAsrEngine
from deployments.engines.qwen3_prompt import prompt_text

Kind = Literal["package", "vllm"]
Refeed = Callable[[Pcm, tuple[int, ...], int], Awaitable[tuple[int, ...]]]
"""Decodes all audio so far as one item: audio, prefix and how many tokens may follow, to all tokens."""

_LANGUAGE = "Chinese"


def read_samples(file: Path) -> Pcm:
    """Samples of a mono 16-bit WAV at 16 kHz. Raises ValueError for any other."""
    with wave.open(str(file), "rb") as audio:
        if (audio.getnchannels(), audio.getsampwidth(), audio.getframerate()) != (1, 2, SAMPLE_RATE):
            raise ValueError(f"{file} is not mono 16-bit WAV at 16 kHz")
        return np.frombuffer(audio.readframes(audio.getnframes()), np.int16)


@asynccontextmanager
async def opened(kind: Kind, model: Path, threads: int) -> AsyncIterator[GenerativeAsrEngine]:
    """The service's own engine, loaded and warm."""
    engine: GenerativeAsrEngine
    if kind == "vllm":
        from deployments.engines.qwen3_vllm import Qwen3VllmEngine

        engine = await Qwen3VllmEngine.create(model, threads=threads)
    else:
        from deployments.engines.qwen3_package import Qwen3PackageEngine

        engine = await asyncio.to_thread(Qwen3PackageEngine, model, threads=threads)
    try:
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def refeeding(kind: Kind, model: Path, threads: int) -> AsyncIterator[Refeed]:
    """What others do: ``qwen_asr``'s streaming over vLLM, or, without vLLM, where it has none, its
    ``transcribe`` of all audio so far, which knows no prefix."""
    if kind == "vllm":
        async with _vllm_refeed(model, threads) as refeed:
            yield refeed
    else:
        yield await asyncio.to_thread(_package_refeed, model, threads)


@asynccontextmanager
async def _vllm_refeed(model: Path, threads: int) -> AsyncIterator[Refeed]:
    from vllm.sampling_params import SamplingParams

    from deployments.engines.qwen3_vllm_start import VllmOptions, close_engine, start_engine

    engine = await start_engine(VllmOptions(model, threads=threads))
    tokenizer: Any = engine.get_tokenizer()

    async def refeed(samples: Pcm, prefix: tuple[int, ...], most: int) -> tuple[int, ...]:
        text = prompt_text(1, _LANGUAGE, "")
        prompt: Any = {
            "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False) + list(prefix),
            "multi_modal_data": {"audio": [samples.astype(np.float32) / 32768]},
        }
        written: list[int] = []
        async for output in engine.generate(
            prompt, SamplingParams(temperature=0.0, max_tokens=most), uuid4().hex
        ):
            written = list(output.outputs[0].token_ids)
        return (*prefix, *written)

    try:
        yield refeed
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await close_engine(engine)


def _package_refeed(model: Path, threads: int) -> Refeed:
    import torch
    from qwen_asr import Qwen3ASRModel

    recognizer = Qwen3ASRModel.from_pretrained(str(model), dtype=torch.float32)
    one_at_a_time = asyncio.Lock()

    async def refeed(samples: Pcm, prefix: tuple[int, ...], most: int) -> tuple[int, ...]:
        def run() -> None:
            torch.set_num_threads(threads)
            audio = samples.astype(np.float32) / 32768
            recognizer.transcribe(audio=(audio, SAMPLE_RATE), language=_LANGUAGE)

        # Its model takes one call at a time.
        async with one_at_a_time:
            await asyncio.to_thread(run)
        return ()

    return refeed
