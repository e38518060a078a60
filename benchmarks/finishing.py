"""What finishing a sentence costs, directly and on a thread: ``python -m benchmarks.finishing``."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from serve_app.pipeline.finishing import Correction, Finisher, TextOptions
from serve_app.pipeline.types import Sentence, TimedWord

_SENTENCES = {
    "Chinese, no number": "今天天气真的很好我们一起出去走一走吧你觉得这个主意怎么样",
    "Chinese, one number": "请问火车站怎么走二月十五号我们坐高铁去上海",
    "Chinese, four numbers": "二零二三年十二月五号花了三百二十块增长了百分之五电话是幺三八零零一三八零零零",
    "English, no number": "the weather is very nice today so we should all go out for a walk",
    "English, one number": "i paid twenty five dollars for this book and i like it very much",
}
_ROUNDS = 300


def main() -> None:
    """Print microseconds a sentence, and what loading takes."""
    before, began = _resident_mb(), time.perf_counter()
    finisher, options = Finisher(), TextOptions(itn=True)
    asyncio.run(finisher.prepare(options))
    print(f"loading: {time.perf_counter() - began:.2f} s, {_resident_mb() - before:.0f} MB")
    corrections = tuple(Correction(f"错{index}", "对") for index in range(500))
    ways = {
        "off": TextOptions(),
        "itn": options,
        "itn, 500 corrections": TextOptions(itn=True, corrections=corrections),
    }
    for name, text in _SENTENCES.items():
        sentence = _sentence(text)
        for way, chosen in ways.items():
            direct = _microseconds(partial(finisher.finish, sentence, chosen))
            print(f"{name:24} {way:22} {direct:8.0f} us")
    sentence = _sentence(_SENTENCES["Chinese, no number"])
    print(f"the same through asyncio.to_thread: {asyncio.run(_through_threads(finisher, sentence)):.0f} us")
    for count in (1, 2, 4):
        busy = _sentence(_SENTENCES["Chinese, four numbers"])
        print(f"{count} threads at once: {_together(finisher, busy, count):.0f} us a sentence")


def _sentence(text: str) -> Sentence:
    parts = text.split(" ") if text.isascii() else list(text)
    words = [TimedWord(part, 0.2 * i, 0.2 * i + 0.2, -0.1) for i, part in enumerate(parts)]
    return Sentence((*words[:-1], TimedWord(words[-1].text, words[-1].begin, words[-1].end, -0.1, "。")))


def _microseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        work()
    return (time.perf_counter() - began) / _ROUNDS * 1e6


async def _through_threads(finisher: Finisher, sentence: Sentence) -> float:
    options = TextOptions(itn=True)
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        await asyncio.to_thread(finisher.finish, sentence, options)
    return (time.perf_counter() - began) / _ROUNDS * 1e6


def _together(finisher: Finisher, sentence: Sentence, count: int) -> float:
    """Wall time a sentence; if the grammars ran beside each other, it would fall with ``count``."""

    def work() -> None:
        for _ in range(_ROUNDS):
            finisher.finish(sentence, TextOptions(itn=True))

    threads = [threading.Thread(target=work) for _ in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / _ROUNDS / count * 1e6


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
