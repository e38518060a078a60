"""Writes down what the engine of the qwen-asr package gives, which cannot share an environment with vLLM.

    python -m tests.vllm.make_expected

To be run when the starter model was trained anew; a test of the ordinary suite tells if it was forgotten.
"""

import asyncio
import json
from typing import Any

from deployments.engines.generative import GenerativeAsrEngine, Hypothesis
from deployments.engines.qwen3_package import Qwen3PackageEngine
from tests.vllm.cases import EXPECTED, MODEL, prompts, weights_digest


def main() -> None:
    expected = asyncio.run(package_answers())
    EXPECTED.write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {len(expected['answers'])} answers into {EXPECTED}.")


async def package_answers() -> dict[str, Any]:
    """What is kept of them: see :func:`kept`."""
    engine: GenerativeAsrEngine = Qwen3PackageEngine(MODEL, threads=1, precision="fp32")
    try:
        answers = {name: kept(await engine.transcribe(prompt)) for name, prompt in prompts().items()}
    finally:
        await engine.aclose()
    return {"weights": weights_digest(), "answers": answers}


def kept(answer: Hypothesis) -> dict[str, Any]:
    """All of an answer that both engines must agree on."""
    return {
        "text": answer.text,
        "language": answer.language,
        "finished": answer.finished,
        "token_ids": list(answer.token_ids),
        "log_probs": [round(log_prob, 4) for log_prob in answer.log_probs],
    }


if __name__ == "__main__":
    main()
