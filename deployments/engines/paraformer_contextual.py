"""Hotwords for Paraformer by attention to them inside of its decoder (CLAS).

The computation is that of FunASR's ``ContextualParaformer`` and its ``ContextualParaformerDecoder`` on the
same parameters, for segments with different lists of hotwords in one call and without padding. (The idea is
that of Pundak et al., "Deep context: end-to-end contextual speech recognition", arXiv:1808.02480.)

An LSTM reads the tokens of each hotword, and its last state stands for it. What the last attending block has
made of a token before it attends to the encoder attends to the hotwords of the segment as well, and to one
entry that means none of them; one matrix puts both results together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deployments.engines.base import Hotword
from deployments.engines.hotword_reader import HotwordAttention, HotwordReader, Ids
from deployments.engines.hotword_tokens import HotwordTokens, TokenizedHotword, log_factors
from deployments.engines.model_files import ModelFiles, Parameters
from deployments.engines.paraformer_decoder import DECODER_DEFAULTS, DecoderBlock, ParaformerDecoder
from deployments.engines.sanm import Linear, Memory, Norm, Placement, Rows, attend_segments

_LSTM_LAYERS = 1


class ContextualDecoding:
    """The decoder that attends to hotwords, and what reads them.

    Weights: one of 20 is FunASR's own rule; another one makes a hotword count in the attention as if it stood
    in the list weight / 20 times.
    """

    def __init__(self, files: ModelFiles, size: int, at: Placement) -> None:
        """``size``: width of the encoder.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or the variant is not implemented here.
        """
        source, vocabulary = files.parameters, len(files.tokens)
        conf = {"sos": 1, **files.section("model_conf")}
        self._decoder = ContextualDecoder(source, size, vocabulary, files.section("decoder_conf"), at)
        self._tokens = HotwordTokens(files)
        shared = bool(conf.get("use_decoder_embedding", False))
        name = "decoder.embed.0.weight" if shared else "bias_embed.weight"
        embedding = source.take(name, vocabulary, size)
        self._reader = HotwordReader(source, embedding, conf, _LSTM_LAYERS, at)
        self._no_hotword: Ids = (int(conf["sos"]),)

    def applied(self, hotwords: Sequence[Hotword]) -> tuple[str, ...]:
        return self._tokens.applied(hotwords)

    def __call__(
        self,
        embeddings: Tensor,
        rows: Rows,
        encoded: Tensor,
        encoded_rows: Rows,
        hotwords: Sequence[Sequence[Hotword]],
    ) -> Tensor:
        none = TokenizedHotword("", self._no_hotword)
        lists = [(*self._tokens(given), none) for given in hotwords]
        numbers: dict[Ids, int] = {}
        keys = [[numbers.setdefault(item.ids, len(numbers)) for item in given] for given in lists]
        factors = [log_factors(given, rows.device) for given in lists]
        weighted = any(bool(factor.any()) for factor in factors)
        attention = HotwordAttention(
            rows.lengths, keys, self._decoder.heads, rows.device, factors if weighted else None
        )
        vectors = self._reader(list(numbers))
        return self._decoder.with_hotwords(embeddings, rows, encoded, encoded_rows, vectors, attention)


class ContextualDecoder(ParaformerDecoder):
    """FunASR's ``ContextualParaformerDecoder``: a :class:`ParaformerDecoder` whose last attending block
    attends to hotwords, too.
    """

    def __init__(
        self, source: Parameters, size: int, vocabulary: int, conf: dict[str, Any], at: Placement
    ) -> None:
        """As :class:`ParaformerDecoder`."""
        conf = {**DECODER_DEFAULTS, **conf}
        attending, total = int(conf["att_layer_num"]), int(conf["num_blocks"])
        # The blocks before the last attending one, and those after it.
        others = {**conf, "att_layer_num": attending - 1, "num_blocks": max(total, attending) - 1}
        super().__init__(source, "decoder.", size, vocabulary, others, at)
        self._last = DecoderBlock(source, "decoder.last_decoder", size, conf, at)
        name, scaled = "decoder.bias_decoder.src_attn", (size, (size // self.heads) ** -0.5)
        self._query = Linear.load(source, f"{name}.linear_q", (size, size), at, scaled=scaled)
        self._key_value = Linear.load(source, f"{name}.linear_k_v", (2 * size, size), at)
        self._out = Linear.load(source, f"{name}.linear_out", (size, size), at)
        self._bias_norm = Norm.load(source, "decoder.bias_decoder.norm3", size, at)
        both = source.take("decoder.bias_output.weight", size, 2 * size, 1)[:, :, 0]
        self._merge = Linear(both.to(at.device, at.dtype), None)

    def with_hotwords(
        self,
        x: Tensor,
        rows: Rows,
        encoded: Tensor,
        encoded_rows: Rows,
        vectors: Tensor,
        hotwords: HotwordAttention,
    ) -> Tensor:
        """fp32 ``(tokens, size)`` to fp32 log-probabilities ``(tokens, vocabulary)``.

        ``vectors``: fp32 ``(hotwords, size)``, all that ``hotwords`` attends to.
        """
        encoded = encoded.to(self._dtype)

        def attend(query: Tensor, key_value: Tensor) -> Tensor:
            key, value = key_value.chunk(2, dim=1)
            return attend_segments(query, rows, key, value, encoded_rows, self.heads)

        def remember(memory: Memory, x: Tensor) -> Tensor:
            return memory(x, rows)

        for block in self._blocks[: self.attending]:
            x = block(x, encoded, remember, attend)
        x = self._last.remembered(x, self._dtype, remember)
        heard = self._last.attended(x, encoded, attend)
        found = self._out(hotwords(self._query(self._bias_norm(x)), self._key_value(vectors)))
        x = x + self._merge(torch.cat([heard, found], dim=1))
        for block in self._blocks[self.attending :]:
            x = block(x, encoded, remember, attend)
        return self._log_probs(self._norm(x))
