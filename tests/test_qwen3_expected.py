"""What vLLM is compared with in its own environment is what the qwen-asr package gives."""

import json
from typing import Any

import pytest

from tests.vllm.cases import EXPECTED, weights_digest
from tests.vllm.make_expected import package_answers


async def test_the_answers_that_vllm_must_give_are_those_of_the_package() -> None:
    made: dict[str, Any] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert made["weights"] == weights_digest(), "run `.venv/bin/python -m tests.vllm.make_expected`"
    now = await package_answers()
    assert made["answers"].keys() == now["answers"].keys()
    for name, answer in now["answers"].items():
        kept = made["answers"][name]
        log_probs = pytest.approx(kept["log_probs"], abs=0.01)
        assert answer == {**kept, "log_probs": log_probs}, name
