"""Hotwords for Paraformer by SeACo: a second decoder that looks for hotwords in what the first one heard.

The computation is that of FunASR's ``SeacoParaformer`` (Shi et al., "SeACo-Paraformer: A Non-Autoregressive
ASR System with Flexible and Effective Hotword Customization Ability", arXiv:2308.03266) on the same
parameters, for segments with different lists of hotwords in one call and without padding.

An LSTM reads the tokens of each hotword, and its last state stands for it. A decoder attends from the
acoustic embeddings, and once more from the hidden states of the recognizer's decoder, to the hotwords of the
segment and to one entry that means none of them. The sum of both gives scores over the vocabulary, of which
one class, ``NO_BIAS``, means that no hotword was spoken there. Where another one wins, it is written.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from deployments.engines.base import Hotword
from deployments.engines.hotword_reader import HotwordAttention, HotwordReader, Ids
from deployments.engines.hotword_tokens import HotwordTokens, TokenizedHotword, log_factors
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.paraformer_decoder import DecoderStack, ParaformerDecoder
from deployments.engines.paraformer_seaco_whole import write_whole
from deployments.engines.sanm import Linear, Placement, Rows

ATTENDED = 50
"""FunASR's ``nfilter``: of longer lists, the hotwords with the most attention are looked at alone."""

_FILTER_BLOCK = 5
_LSTM_LAYERS = 2


class SeacoDecoding:
    """The recognizer's decoder, and SeACo for the segments that have hotwords.

    FunASR decides token by token: where ``NO_BIAS`` is not the likeliest class, the likeliest one is written.
    A model whose ``model_conf`` has ``whole_hotwords: true`` writes hotwords whole or not at all
    (:mod:`deployments.engines.paraformer_seaco_whole`; ``whole_hotwords_bonus`` is the bonus there). FunASR
    does not know these settings.

    Weights: one of 20 changes nothing; another one multiplies the odds of a hotword against ``NO_BIAS`` by
    weight / 20, those of each of its tokens by FunASR's rule (a token of several hotwords has the greatest of
    their weights), those of the whole one otherwise.
    """

    def __init__(self, files: ModelFiles, size: int, at: Placement) -> None:
        """``size``: width of the encoder.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or the variant is not implemented here.
        """
        source, vocabulary = files.parameters, len(files.tokens)
        conf = {"sos": 1, "NO_BIAS": 8377, **files.section("model_conf")}
        self._decoder = ParaformerDecoder(
            source, "decoder.", size, vocabulary, files.section("decoder_conf"), at
        )
        self._tokens = HotwordTokens(files)
        embedding = source.take("decoder.embed.0.weight", vocabulary, size)
        self._reader = HotwordReader(source, embedding, conf, _LSTM_LAYERS, at)
        self._listener = SeacoDecoder(source, "seaco_decoder.", size, files.section("seaco_decoder_conf"), at)
        exact = Placement(torch.float32, at.device)
        self._output = Linear.load(source, "hotword_output_layer", (vocabulary, size), exact)
        self._no_hotword: Ids = (int(conf["sos"]),)
        self._no_bias, self._whole = int(conf["NO_BIAS"]), bool(conf.get("whole_hotwords", False))
        self._bonus = float(conf.get("whole_hotwords_bonus", 0.0))
        if self._no_bias >= vocabulary:
            problem = f"NO_BIAS: {self._no_bias} is none of the {vocabulary} tokens"
            raise ModelFilesError(files.directory / "config.yaml", problem, SAME_MODEL)

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
        log_probs, hidden = self._decoder.with_hidden(embeddings, rows, encoded, encoded_rows)
        lists = [self._tokens(given) for given in hotwords]
        asking = [index for index, given in enumerate(lists) if given and rows.lengths[index]]
        if not asking:
            return log_probs
        begins = [0, *accumulate(rows.lengths)]
        index = torch.cat([torch.arange(begins[segment], begins[segment + 1]) for segment in asking])
        index = index.to(rows.device)
        lengths = [rows.lengths[segment] for segment in asking]
        scores, heeded = self._scores(
            embeddings[index], hidden[index], lengths, [lists[segment] for segment in asking]
        )
        write = self._write_whole if self._whole else self._write_tokens
        parts = zip(log_probs[index].split(lengths), scores.split(lengths), heeded, strict=True)
        return log_probs.index_copy(0, index, torch.cat([write(*part) for part in parts]))

    def _scores(
        self,
        embeddings: Tensor,
        hidden: Tensor,
        lengths: list[int],
        lists: Sequence[tuple[TokenizedHotword, ...]],
    ) -> tuple[Tensor, list[list[TokenizedHotword]]]:
        """Log-probabilities of what hotwords say, fp32 ``(tokens, vocabulary)``, and the hotwords of each
        segment that they come from.
        """
        numbers: dict[Ids, int] = {self._no_hotword: 0}
        for given in lists:
            for hotword in given:
                numbers.setdefault(hotword.ids, len(numbers))
        vectors = self._reader(list(numbers))
        keys = [[*(numbers[hotword.ids] for hotword in given), 0] for given in lists]
        keys = self._listener.filtered(hidden, lengths, vectors, keys)
        attended = self._listener.listen(embeddings, lengths, vectors, keys)
        attended = attended + self._listener.listen(hidden, lengths, vectors, keys)
        kept = [set(key) for key in keys]
        heeded = [
            [hotword for hotword in given if numbers[hotword.ids] in chosen]
            for given, chosen in zip(lists, kept, strict=True)
        ]
        return torch.log_softmax(self._output(attended), dim=-1), heeded

    def _write_whole(self, log_probs: Tensor, scores: Tensor, hotwords: list[TokenizedHotword]) -> Tensor:
        return write_whole(log_probs, scores, self._no_bias, hotwords, self._bonus)

    def _write_tokens(self, log_probs: Tensor, scores: Tensor, hotwords: list[TokenizedHotword]) -> Tensor:
        scores = self._weighted(scores, hotwords)
        spoken = scores.argmax(dim=-1, keepdim=True) != self._no_bias
        return torch.where(spoken, scores, log_probs)

    def _weighted(self, scores: Tensor, hotwords: list[TokenizedHotword]) -> Tensor:
        factors = log_factors(hotwords, scores.device)
        if not factors.any():
            return scores
        tokens = torch.tensor([token for hotword in hotwords for token in hotword.ids], device=scores.device)
        counts = torch.tensor([len(hotword.ids) for hotword in hotwords], device=scores.device)
        offsets = scores.new_zeros(scores.shape[1])
        offsets.scatter_reduce_(
            0, tokens, factors.repeat_interleave(counts), reduce="amax", include_self=False
        )
        return torch.log_softmax(scores + offsets, dim=-1)


class SeacoDecoder(DecoderStack):
    """The decoder that attends to hotwords."""

    def listen(
        self, x: Tensor, lengths: Sequence[int], vectors: Tensor, keys: Sequence[Sequence[int]]
    ) -> Tensor:
        """``x``: fp32 ``(tokens, size)``, ``lengths`` of them for each segment; ``vectors``: all hotwords,
        of which ``keys`` names each segment's.
        """
        attention = HotwordAttention(lengths, keys, self.heads, x.device)
        return self.hidden(x, vectors.to(self._dtype), attention.remember, attention)

    def filtered(
        self, x: Tensor, lengths: Sequence[int], vectors: Tensor, keys: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """``keys``, those of long lists cut down to the ones with the most attention and the last one.

        As FunASR's ``_seaco_decode_with_ASF``: the attention of the sixth block, summed over heads and
        tokens. (In FunASR fewer blocks are an error; here it is then the last one that attends.)
        """
        long = [index for index, key in enumerate(keys) if len(key) > ATTENDED]
        kept = [list(key) for key in keys]
        if not long:
            return kept
        parts = x.split(list(lengths))
        x = torch.cat([parts[index] for index in long])
        attention = HotwordAttention(
            [lengths[index] for index in long], [keys[index] for index in long], self.heads, x.device
        )
        encoded, last = vectors.to(self._dtype), min(_FILTER_BLOCK, self.attending - 1)
        for block in self._blocks[:last]:
            x = block(x, encoded, attention.remember, attention)
        self._blocks[last](x, encoded, attention.remember, attention.weigh)
        for index, weights in zip(long, attention.weights, strict=True):
            count = min(ATTENDED, len(kept[index]) - 1)
            best = torch.topk(weights, count).indices.tolist()
            kept[index] = [kept[index][place] for place in best] + kept[index][-1:]
        return kept
