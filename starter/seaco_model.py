"""The hotword model's shape: FunASR's SeacoParaformer around the starter recognizer, and its directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from funasr.models.seaco_paraformer.model import SeacoParaformer

from starter.paraformer_data import TOKENS
from starter.paraformer_model import ARCHITECTURE, FEATURE_SIZE, WIDTH

NO_BIAS = TOKENS.index("<unk>")
"""The class that says "no hotword here"; <unk> is no character of any hotword."""
WHOLE_BONUS = 1.5
"""On sentences of the development part, more than this brought more hotwords that nobody said."""
NO_HOTWORD = (TOKENS.index("<s>"),)
"""What a list of hotwords ends with: the entry to look at where none of them was spoken."""

_DECODER: dict[str, Any] = {
    "attention_heads": 4,
    "linear_units": WIDTH,
    "num_blocks": 3,
    "att_layer_num": 3,
    "dropout_rate": 0.0,
    "positional_dropout_rate": 0.0,
    "self_attention_dropout_rate": 0.0,
    "src_attention_dropout_rate": 0.0,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "use_output_layer": False,
    "wo_input_layer": True,
}
SEACO_ARCHITECTURE: dict[str, Any] = {
    **ARCHITECTURE,
    "model": "SeacoParaformer",
    "model_conf": {
        **ARCHITECTURE["model_conf"],
        "inner_dim": WIDTH,
        "bias_encoder_type": "lstm",
        "bias_encoder_bid": False,
        "seaco_lsm_weight": 0.0,
        "seaco_length_normalized_loss": True,
        "train_decoder": False,
        "NO_BIAS": NO_BIAS,
        # This project's engine judges the tokens of a hotword together; FunASR ignores it.
        "whole_hotwords": True,
        "whole_hotwords_bonus": WHOLE_BONUS,
    },
    "seaco_decoder": "ParaformerSANMDecoder",
    "seaco_decoder_conf": _DECODER,
}
_COPIED = ("tokens.json", "am.mvn", "configuration.json")
_TRAINED = ("bias_encoder.", "seaco_decoder.", "hotword_output_layer.")


def build_seaco() -> SeacoParaformer:
    """The untrained model."""
    parts = {
        key: value for key, value in SEACO_ARCHITECTURE.items() if not key.startswith(("front", "token"))
    }
    del parts["model"]
    settings = parts.pop("model_conf")
    return SeacoParaformer(input_size=FEATURE_SIZE, vocab_size=len(TOKENS), **parts, **settings)


class BiasNetwork(torch.nn.Module):
    """The parts of a SeacoParaformer that listen for hotwords, over the recognizer's frozen embedding."""

    def __init__(self, model: SeacoParaformer) -> None:
        super().__init__()
        self.bias_encoder = model.bias_encoder
        self.seaco_decoder = model.seaco_decoder
        self.hotword_output_layer = model.hotword_output_layer
        self._embed = [model.decoder.embed.requires_grad_(False)]  # in a list: no parameter of this module
        for block in self.seaco_decoder.decoders:
            block.reserve_attn = True

    def forward(
        self,
        acoustic: torch.Tensor,
        hidden: torch.Tensor,
        row_mask: torch.Tensor,
        hotwords: list[torch.Tensor],
        heeded: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores over the vocabulary, (rows, vocabulary), and attention to the hotwords, (2 x blocks, rows,
        hotwords), the mean of the heads.

        acoustic, hidden: (rows, width), clips one below the other with rows between them that hold nothing;
        row_mask: (rows,), 1 where a row holds a token. hotwords: the ids of each. heeded: (rows, hotwords),
        1 where the row's clip has the hotword in its list. As SeacoParaformer computes it, but for all lists
        of a batch at once.
        """
        memory = self.represent(hotwords)[None]
        attended = [
            self._attend(rows[None], row_mask[None, :, None], memory, heeded[None])
            for rows in (acoustic, hidden)
        ]
        scores = self.hotword_output_layer(attended[0] + attended[1])
        attention = [kept[0].mean(0) for block in self.seaco_decoder.decoders for kept in block.attn_mat]
        for block in self.seaco_decoder.decoders:
            block.attn_mat.clear()
        return scores, torch.stack(attention)

    def represent(self, hotwords: list[torch.Tensor]) -> torch.Tensor:
        """(hotwords, width): the LSTM's state after the last character of each."""
        lengths = torch.tensor([len(hotword) for hotword in hotwords])
        padded = torch.nn.utils.rnn.pad_sequence(hotwords, batch_first=True)
        states, _ = self.bias_encoder(self._embed[0](padded))
        last: torch.Tensor = states[torch.arange(len(hotwords)), lengths - 1]
        return last

    def _attend(
        self, rows: torch.Tensor, row_mask: torch.Tensor, memory: torch.Tensor, heeded: torch.Tensor
    ) -> torch.Tensor:
        decoder = self.seaco_decoder
        x, *_ = decoder.decoders(rows, row_mask, memory, heeded)
        x, *_ = decoder.decoders3(x, row_mask, memory, heeded)
        normed: torch.Tensor = decoder.after_norm(x)
        return normed[0]


def export_seaco(directory: Path, recognizer: Path, network: BiasNetwork) -> None:
    """Write a whole model directory: the recognizer's weights as they are, and the trained parts in fp16."""
    directory.mkdir(parents=True, exist_ok=True)
    state = dict(torch.load(recognizer / "model.pt", map_location="cpu", weights_only=True))
    trained = {
        name: value.half() for name, value in network.state_dict().items() if name.startswith(_TRAINED)
    }
    torch.save({**state, **trained}, directory / "model.pt")
    for name in _COPIED:
        shutil.copyfile(recognizer / name, directory / name)
    # FunASR cuts hotwords into characters only where a file tells it how.
    characters = [token for token in TOKENS if len(token) == 1]
    (directory / "seg_dict").write_text("".join(f"{one} {one}\n" for one in characters), "utf-8")
    (directory / "config.yaml").write_text(yaml.safe_dump(SEACO_ARCHITECTURE, sort_keys=False), "utf-8")
