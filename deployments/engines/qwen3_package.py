"""Qwen3-ASR on the layers of the qwen-asr package, for machines without a GPU: many calls at once."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import torch

from deployments.engines.generative import EngineDied, Hypothesis, SpeechPrompt
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.qwen3_calls import Call
from deployments.engines.qwen3_loading import load_package_model, load_package_processor, read_config
from deployments.engines.qwen3_output import TokenReader
from deployments.engines.qwen3_ragged import ATTENTION, RaggedModel, register
from deployments.engines.qwen3_scheduler import Scheduler

_MEMORY_BYTES = 4 * 2**30
"""For what attention remembers; the 20 minutes that a prompt may hold take 1.8 GB at full size."""

_CLOSED = "The Qwen3-ASR engine was closed, or its thread died."


class Qwen3PackageEngine:
    """A :class:`GenerativeAsrEngine` for a Qwen3-ASR in the hub's layout.

    One thread holds the model, and takes all calls through it step by step; see :class:`Scheduler`. Calls may
    come from any event loop, and go through it one by one, each at its own pace.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        threads: int,
        device: str = "cpu",
        precision: Precision = "auto",
        memory_bytes: int = _MEMORY_BYTES,
    ) -> None:
        """Load the model; takes seconds.

        ``threads``: how many threads PyTorch uses for the model. ``memory_bytes``: what attention may
        remember of all calls; what does not fit waits, but one call is always let in.

        Raises:
            ImportError: the qwen-asr package is not installed.
            ModelFilesError: the directory is incomplete, or holds another kind of model.
            ValueError: ``precision`` is unknown, or ``threads`` is less than one.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        at = torch.device(device)
        self.dtype = resolve_precision(precision, at)
        read_config(model_dir, aligner=False)
        processor = load_package_processor(model_dir)
        register()
        model = RaggedModel(load_package_model(model_dir, self.dtype, at, ATTENTION), processor)
        self._reader = TokenReader(processor.tokenizer)
        self._scheduler = Scheduler(model, processor.tokenizer, self._reader.end_tokens, memory_bytes)
        self._inbox: list[Call | _Ping] = []
        self._calls: set[Call] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(threads,), name="qwen3-asr", daemon=True)
        self._thread.start()

    async def transcribe(self, prompt: SpeechPrompt) -> Hypothesis:
        """Decode to the end; see :class:`GenerativeAsrEngine`."""
        async with aclosing(self._hypotheses(prompt, streams=False)) as hypotheses:
            return [hypothesis async for hypothesis in hypotheses][-1]

    def stream(self, prompt: SpeechPrompt) -> AsyncGenerator[Hypothesis, None]:
        """The same as it grows. Of tokens that come faster than they are asked for, only the last is told."""
        return self._hypotheses(prompt, streams=True)

    @property
    def unfinished(self) -> int:
        """Calls that wait for the model or are in it."""
        with self._changed:
            return sum(not call.done for call in self._calls)

    async def check(self) -> None:
        """Return as soon as the model's thread has made a step.

        Raises:
            EngineDied: the thread has ended.
        """
        ping = _Ping(asyncio.get_running_loop())
        self._send(ping)
        await ping.answered.wait()
        self._assert_alive()

    async def aclose(self) -> None:
        """End the thread, and all calls with an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    async def _hypotheses(self, prompt: SpeechPrompt, *, streams: bool) -> AsyncGenerator[Hypothesis, None]:
        call = Call(prompt, asyncio.get_running_loop(), streams=streams)
        self._send(call)
        try:
            while True:
                await call.progress.wait()
                call.progress.clear()
                done = call.done
                if call.error is not None:
                    raise call.error
                yield self._reader.read(*call.snapshot(), prompt.language, finished=call.finished)
                if done:
                    return
        finally:
            call.canceled = True

    def _send(self, item: "Call | _Ping") -> None:
        with self._changed:
            self._assert_alive()
            self._inbox.append(item)
            if isinstance(item, Call):
                self._calls.add(item)
            self._changed.notify()

    def _assert_alive(self) -> None:
        if self._closing or not self._thread.is_alive():
            raise EngineDied(_CLOSED) from self._failure

    def _run(self, threads: int) -> None:
        """The model's thread."""
        torch.set_num_threads(threads)
        try:
            while self._receive():
                self._scheduler.step()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._end()

    def _receive(self) -> bool:
        """Take in what has come; while there is nothing to do, wait for it. Whether to go on."""
        with self._changed:
            self._calls = {call for call in self._calls if not call.done}
            self._changed.wait_for(lambda: self._inbox or self._closing or self._scheduler.calls)
            inbox, self._inbox = self._inbox, []
            if self._closing:
                self._inbox = inbox
                return False
        for item in inbox:
            if isinstance(item, Call):
                self._scheduler.add(item)
            else:
                item.answer()
        return True

    def _end(self) -> None:
        error = EngineDied(_CLOSED)
        with self._changed:
            self._closing = True
            inbox, self._inbox = self._inbox, []
        self._scheduler.end(error)
        for item in inbox:
            if isinstance(item, Call):
                item.end(error)
            else:
                item.answer()


class _Ping:
    """A question to the model's thread whether it is there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered = asyncio.Event()
        self._loop = loop

    def answer(self) -> None:
        self._loop.call_soon_threadsafe(self.answered.set)
