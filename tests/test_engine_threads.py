"""Engines use their threads on whatever thread they are called, also where Ray has set OMP_NUM_THREADS=1."""

import os
import re
import subprocess
import sys

import pytest

CALLS = {
    "vad_fsmn.FsmnVadEngine(Path('models/starter/fsmn-vad'), threads=3)": (
        "detect([VadBlock(audio, None, True, VadOptions())])"
    ),
    "paraformer_torch.ParaformerTorchEngine(Path('models/starter/paraformer'), threads=3)": (
        "transcribe([audio])"
    ),
    "paraformer_streaming.ParaformerStreamingEngine(Path(STREAMING), threads=3)": (
        "step([StreamChunk(audio, None, True)])"
    ),
    "speaker_torch.SpeakerTorchEngine(Path('models/starter/campplus'), threads=3)": "embed([audio])",
    "punctuation_ct.CtPunctuationEngine(Path('models/starter/ct-punc'), threads=3)": (
        "punctuate([['你', '好']])"
    ),
    "punctuation_realtime.CtRealtimePunctuationEngine(Path('models/starter/ct-punc-realtime'), threads=3)": (
        "punctuate([PunctuationBlock(('你', '好'))])"
    ),
}

PROGRAM = """
import threading
from pathlib import Path
import numpy as np
import torch
from deployments.engines.base import PunctuationBlock, StreamChunk, VadBlock, VadOptions
from deployments.engines import {module}
STREAMING = "models/starter/paraformer-streaming"
audio = np.zeros(16000, np.int16)
engine = {engine}
def call():
    engine.{call}
    print(torch.__config__.parallel_info())
thread = threading.Thread(target=call)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(("engine", "call"), CALLS.items(), ids=[name.split(".")[0] for name in CALLS])
def test_a_called_thread_computes_with_all_threads(engine: str, call: str) -> None:
    program = PROGRAM.format(module=engine.split(".")[0], engine=engine, call=call)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall(r"omp_get_max_threads\(\) : (\d+)", done.stdout) == ["3"]
