"""What traces cost, without models: CPU time of one stage in the ingress, and of one call in a replica.

    python -m benchmarks.tracing_cost

Off, on for a request that is not sampled, and on for one that is. Spans go to a file in a temporary
directory, as with ``TRACING=file``.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from deployments.batching import BatchQueue
from deployments.messages import PunctuationRequest
from deployments.origin import Origin, on_behalf_of
from deployments.tracing import Observed, TraceOptions, observed, open_provider
from serve_app.stages import stage
from serve_app.tracing import Tracing

CALLS = 1_000
ROUNDS = 7
ORIGIN = Origin("benchmark", "openai")


class EchoReplica:
    """A deployment without a model."""

    def __init__(self, watcher: Observed) -> None:
        self._observed = watcher
        self._queue: BatchQueue[Sequence[str], Sequence[str]] = BatchQueue(
            lambda items: [*items],
            1000,
            report=watcher.reporting(lambda report: None),
            traceparent=watcher.traceparent_now,
        )

    @observed
    async def punctuate(self, request: PunctuationRequest) -> Sequence[str]:
        return await self._queue.submit(request.words)


async def staged() -> None:
    """A stage of the ingress."""
    with stage("punctuation", words=3):
        pass


async def microseconds(tracing: Tracing, work: Callable[[], Awaitable[object]]) -> float:
    """CPU time of one call of ``work`` in a request, threads that export included; the least of the rounds,
    since others use this machine too."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        with on_behalf_of(ORIGIN), (root := tracing.begin("request", ORIGIN, {})).holding():
            for _ in range(CALLS):
                await work()
        root.end()
        best = min(best, (time.process_time_ns() - began) / CALLS / 1000)
    return best


async def measure(name: str, share: float | None, directory: Path) -> None:
    """Print a line; ``share``: that is sampled, ``None``: tracing is off."""
    options = None if share is None else TraceOptions("file", share, str(directory / "traces.jsonl"))
    tracing = Tracing(options)
    provider = None if options is None else open_provider(options, {})
    replica = EchoReplica(Observed(provider, "Punctuation"))

    async def call() -> None:
        await replica.punctuate(PunctuationRequest(("a", "b", "c")))

    in_stage = await microseconds(tracing, staged)
    in_call = await microseconds(tracing, call)
    print(f"{name:12}  stage {in_stage:7.2f} us   call {in_call:7.1f} us")
    tracing.close()
    if provider is not None:
        provider.shutdown()


async def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        for name, share in (("off", None), ("not sampled", 0.0), ("sampled", 1.0)):
            await measure(name, share, Path(directory))


if __name__ == "__main__":
    asyncio.run(main())
