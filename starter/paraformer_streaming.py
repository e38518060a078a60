"""The starter recognizer for live speech: a small ParaformerStreaming made from the offline one."""

from __future__ import annotations

from pathlib import Path

from starter.paraformer_streaming_evaluation import measure
from starter.paraformer_streaming_training import train_streaming
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 42.0
ABOUT = """
A small online [Paraformer](https://arxiv.org/abs/2206.08317) made of FunASR's own classes
(`ParaformerStreaming`, `SANMEncoderChunkOpt`, `CifPredictorV2`, `ParaformerSANMDecoder`,
`WavFrontendOnline`), loaded by `funasr.AutoModel` from this directory without network. It writes Mandarin
characters without punctuation while they are spoken:

```python
cache = {}
for chunk, last in chunks:  # float32, 16 kHz, 600 ms each
    model.generate(
        input=chunk, cache=cache, is_final=last, chunk_size=[0, 10, 5],
        encoder_chunk_look_back=4, decoder_chunk_look_back=1,
    )
```

Tokens and feature statistics are those of the offline starter model [paraformer](../paraformer), whose
weights it began with. It was trained on the same clips (`starter/paraformer_data.py`), some with longer
pauses around the speech as a voice activity detector leaves them, and on noise without speech.

Training saw what a live session computes (`starter/paraformer_streaming_windows.py`): every chunk with its
look-ahead is a window of its own, with the look-backs that FunASR's caches hold, the zero frames before the
first chunk and the last chunk without look-ahead. FunASR's own training forward, which masks one long
sequence, differs in these places. No end token is predicted: while a sentence is spoken no one knows whether
it has ended. One batch in eight had another chunk size, [5, 10, 5] or [8, 8, 4].

The encoder's memory blocks look to both sides within a window (`sanm_shfit: 0`), those of the decoder at
earlier characters alone (`sanm_shfit: 5`).
"""


def train(options: TrainOptions) -> None:
    train_streaming(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure(model_dir)
