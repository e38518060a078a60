"""What stands around an engine that writes text: guards, limits, turns, retries. The engine is a script."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.engines.generative import Hypothesis, SpeechPrompt
from deployments.generative_recognizer import GenerativeRecognizer, Speech
from deployments.messages import (
    AlignmentRequest,
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    SpeechRequest,
    Word,
)
from serve_app.errors import UpstreamLost
from serve_app.qwen3_calls import Qwen3Calls

SECOND = 16_000
NOISE: Pcm = (np.random.default_rng(0).standard_normal(4 * SECOND) * 1000).astype(np.int16)


def heard(text: str, language: str | None = "Chinese", *, finished: bool = True) -> Hypothesis:
    tokens = tuple(ord(char) for char in text)
    return Hypothesis(tokens, (-0.5,) * len(tokens), text, language, finished, tuple(text), 0)


class ScriptedEngine:
    """Knows ``text``, and writes as much of it as it may, a character for a token."""

    def __init__(self, text: str, language: str | None = "Chinese") -> None:
        self._text = text
        self._language = language
        self.prompts: list[SpeechPrompt] = []
        self.begun: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.unfinished = 0

    async def transcribe(self, prompt: SpeechPrompt) -> Hypothesis:
        self.prompts.append(prompt)
        self.begun.append(len(prompt.samples))
        self.unfinished += 1
        try:
            await self.gate.wait()
        finally:
            self.unfinished -= 1
        known = len(prompt.prefix)
        end = known + prompt.max_tokens
        hypothesis = heard(self._text[:end], self._language, finished=end > len(self._text))
        log_probs = (0.0,) * known + hypothesis.log_probs[known:]
        return replace(hypothesis, log_probs=log_probs)

    async def stream(self, prompt: SpeechPrompt) -> AsyncGenerator[Hypothesis, None]:
        yield await self.transcribe(prompt)

    async def check(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def texts(recognition: Recognition) -> str:
    return "".join(word.text + word.mark for word in recognition.words)


async def test_text_becomes_words_with_marks_and_the_language_that_was_heard() -> None:
    engine = ScriptedEngine("你好。")
    recognition = await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))
    assert (texts(recognition), recognition.language, recognition.punctuated) == ("你好。", "zh", True)
    assert recognition.words[-1].end_ms == 4000


async def test_the_engine_is_told_the_language_by_its_own_name() -> None:
    engine = ScriptedEngine("Привет.", "Russian")
    speech = Speech(NOISE, language="ru", context="Москва")
    recognition = await GenerativeRecognizer(engine, 4).transcribe(speech)
    assert (engine.prompts[0].language, engine.prompts[0].context) == ("Russian", "Москва")
    assert recognition.language == "ru"
    with pytest.raises(ValueError, match="'tlh'"):
        await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE, language="tlh"))


async def test_a_date_is_not_the_end_of_a_sentence() -> None:
    engine = ScriptedEngine("Am 3. Mai um 10.", "German")
    words = (await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))).words
    assert [word.text for word in words if word.mark] == ["10"]
    assert "3." in [word.text for word in words]


@pytest.mark.parametrize("samples", [np.zeros(SECOND, np.int16), np.zeros(0, np.int16), NOISE // 1000])
async def test_silence_is_not_recognized_at_all(samples: Pcm) -> None:
    engine = ScriptedEngine("你好。")
    recognizer = GenerativeRecognizer(engine, 4)
    assert (await recognizer.transcribe(Speech(samples))).words == ()
    assert (await recognizer.decode(Speech(samples))).token_ids == ()
    assert engine.prompts == []


async def test_where_the_model_hears_nobody_there_are_no_words() -> None:
    engine = ScriptedEngine("", None)
    assert (await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))).words == ()


async def test_more_tokens_than_speech_mostly_has_are_not_lost() -> None:
    text = "".join(chr(0x4E00 + at) for at in range(300))
    engine = ScriptedEngine(text)
    recognition = await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))
    assert texts(recognition) == text
    assert {word.log_prob for word in recognition.words} == {-0.5}
    assert engine.prompts[0].max_tokens < 100
    assert engine.prompts[1].prefix == tuple(map(ord, text[: engine.prompts[0].max_tokens]))


async def test_a_loop_is_cut_short() -> None:
    engine = ScriptedEngine("好" * 100_000)
    await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))
    assert len(engine.prompts) == 1


async def test_no_answer_is_longer_than_it_may_be() -> None:
    endless = "".join(chr(0x4E00 + at % 5000) for at in range(100_000))
    engine = ScriptedEngine(endless)
    recognition = await GenerativeRecognizer(engine, 4).transcribe(Speech(NOISE))
    assert len(recognition.words) == 4096


async def test_who_speaks_goes_before_who_waits_for_a_file_and_jobs_come_last() -> None:
    engine = ScriptedEngine("好")
    engine.gate.clear()
    recognizer = GenerativeRecognizer(engine, 1)
    order = (Priority.REQUEST, Priority.BACKGROUND, Priority.REQUEST, Priority.LIVE)
    calls = [
        asyncio.create_task(recognizer.decode(Speech(NOISE[: SECOND * number], priority=priority)))
        for number, priority in enumerate(order, 1)
    ]
    await asyncio.sleep(0.01)
    assert (recognizer.unfinished, engine.begun) == (4, [SECOND])
    engine.gate.set()
    await asyncio.gather(*calls)
    assert engine.begun == [SECOND, 4 * SECOND, 3 * SECOND, 2 * SECOND]


async def test_canceled_calls_give_their_places_back() -> None:
    engine = ScriptedEngine("好")
    engine.gate.clear()
    recognizer = GenerativeRecognizer(engine, 2)
    calls = [asyncio.create_task(recognizer.transcribe(Speech(NOISE))) for _ in range(6)]
    await asyncio.sleep(0.01)
    assert (engine.unfinished, recognizer.unfinished) == (2, 6)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert recognizer.unfinished == 0
    engine.gate.set()
    assert (await recognizer.transcribe(Speech(NOISE))).words


class Response:
    """What a handle gives: a call under way."""

    def __init__(self, work: Callable[[], Any], slow: bool) -> None:
        self._work = work
        self._slow = slow
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True

    def __await__(self) -> Any:
        async def run() -> Any:
            if self._slow:
                await asyncio.Event().wait()
            return self._work()

        return run().__await__()


class Handle:
    """A deployment's handle; ``answers`` are given, or raised, one after the other."""

    def __init__(self, *answers: Any, slow: bool = False) -> None:
        self._answers = list(answers)
        self._slow = slow
        self.requests: list[Any] = []
        self.sessions: list[str | None] = []
        self.responses: list[Response] = []

    def options(self, method_name: str, session_id: str | None = None) -> "Handle":
        self.sessions.append(session_id)
        return self

    def remote(self, request: Any) -> Response:
        self.requests.append(request)
        self.responses.append(Response(self._answer, self._slow))
        return self.responses[-1]

    def _answer(self) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


WORDS = Recognition((Word("你", 0, 100, 0, ""), Word("好", 100, 200, 0, "。")), "zh", punctuated=True)
AUDIO = AudioSlice(())


def calls(asr: Handle, aligner: Handle | None = None) -> Qwen3Calls:
    handles: Any = asr, aligner
    return Qwen3Calls("Qwen3ASR", *handles)


async def transcribe(asr: Handle, aligner: Handle | None, **options: Any) -> Recognition:
    return await calls(asr, aligner).transcribe(AUDIO, RecognitionOptions(**options), Priority.REQUEST)


async def test_words_get_the_times_of_the_aligner() -> None:
    aligner = Handle(((300, 400), (500, 700)))
    recognition = await transcribe(Handle(WORDS), aligner)
    assert [(word.begin_ms, word.end_ms) for word in recognition.words] == [(300, 400), (500, 700)]
    assert texts(recognition) == "你好。"
    assert aligner.requests == [AlignmentRequest(AUDIO, ("你", "好"), "zh")]


@pytest.mark.parametrize(
    ("recognition", "options"),
    [
        (WORDS, {"word_times": False}),
        (replace(WORDS, language="th"), {}),
        (replace(WORDS, language=None), {}),
        (Recognition((), None, punctuated=True), {}),
    ],
)
async def test_the_aligner_is_asked_only_where_it_can_tell_what_somebody_wants_to_know(
    recognition: Recognition, options: dict[str, Any]
) -> None:
    aligner = Handle()
    assert await transcribe(Handle(recognition), aligner, **options) == recognition
    assert aligner.requests == []


@pytest.mark.parametrize(
    "answer", [DeploymentUnavailableError.__new__(DeploymentUnavailableError), ((0, 100),)]
)
async def test_the_text_is_not_lost_with_the_aligner(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert await transcribe(Handle(WORDS), Handle(answer)) == WORDS
    assert "times of 2 words are estimated" in caplog.text


async def test_without_an_aligner_times_are_those_of_the_model() -> None:
    assert await transcribe(Handle(WORDS), None) == WORDS


async def test_calls_whose_replica_died_are_made_again() -> None:
    asr = Handle(RayActorError(), WORDS)
    assert await transcribe(asr, None) == WORDS
    assert len(asr.requests) == 2
    with pytest.raises(UpstreamLost, match="Qwen3ASR"):
        await transcribe(Handle(*[RayActorError()] * 5), None)


async def test_decodings_of_a_session_go_by_its_id() -> None:
    asr = Handle(heard("你"), heard("你好"))
    ask = calls(asr)
    for prefix in ((), (1, 2)):
        await ask.decode(
            AUDIO, NOISE, RecognitionOptions(language="yue"), prefix=prefix, max_tokens=9, session_id="s"
        )
    assert asr.sessions == ["s", "s"]
    request: SpeechRequest = asr.requests[1]
    assert (request.prefix, request.max_tokens, request.language) == ((1, 2), 9, "yue")
    assert request.priority is Priority.LIVE


async def test_a_call_that_nobody_waits_for_ends_in_the_replica() -> None:
    asr = Handle(slow=True)
    call = asyncio.create_task(transcribe(asr, None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert [response.canceled for response in asr.responses] == [True]
