"""What graphs that stand in for the models leave out."""

from collections.abc import Sequence

from deployments.messages import AudioSlice, Hypothesis, Pcm, RecognitionOptions


class NoGenerativeModel:
    """The part of a :class:`~serve_app.pipeline.graph.LiveGraph` that no test of the class below asks."""

    async def decode(
        self,
        audio: AudioSlice,
        tail: Pcm,
        options: RecognitionOptions,
        *,
        prefix: Sequence[int],
        max_tokens: int,
        session_id: str,
    ) -> Hypothesis:
        raise NotImplementedError("this graph has no generative model")
