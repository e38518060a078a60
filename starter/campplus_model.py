"""The speaker model itself, its files, and how it is scored: cosines of embeddings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from funasr.models.campplus.model import CAMPPlus

from starter.campplus_data import MEL_BANDS
from starter.training import write_model

EMBEDDING_SIZE = 192
ARCHITECTURE: dict[str, Any] = {
    "feat_dim": MEL_BANDS,
    "embedding_size": EMBEDDING_SIZE,
    "growth_rate": 12,
    "bn_size": 2,
    "init_channels": 48,
    "config_str": "batchnorm-relu",
    "memory_efficient": False,
    "output_level": "segment",
}
THRESHOLD = "same_speaker_threshold"
"""The key, in config.yaml and training.json, of the cosine chosen on development speakers."""

_SCALE = 30.0


def build() -> CAMPPlus:
    """The network with random weights, its two-dimensional head laid out as CPUs compute it fastest."""
    model = CAMPPlus(**ARCHITECTURE)
    model.head = model.head.to(memory_format=torch.channels_last)
    return model


class MarginClassifier(torch.nn.Module):
    """Additive angular margin softmax (Deng et al., "ArcFace", 2019) over the training speakers."""

    def __init__(self, speakers: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(speakers, EMBEDDING_SIZE) * 0.05)

    def forward(
        self, embeddings: torch.Tensor, speakers: torch.Tensor, margin: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the share of [batch, 192] embeddings nearest to their speaker ([batch])."""
        cosines = torch.nn.functional.linear(
            torch.nn.functional.normalize(embeddings), torch.nn.functional.normalize(self.weight)
        )
        own = cosines.gather(1, speakers[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        moved = own * math.cos(margin) - (1 - own**2).sqrt() * math.sin(margin)
        # Beyond pi - margin the cosine would rise again.
        moved = torch.where(own > -math.cos(margin), moved, own - margin * math.sin(margin))
        logits = _SCALE * cosines.scatter(1, speakers[:, None], moved)
        right = (cosines.detach().argmax(dim=1) == speakers).float().mean()
        return torch.nn.functional.cross_entropy(logits, speakers), right


def export(model_dir: Path, state: dict[str, torch.Tensor], threshold: float) -> None:
    """Write the network's weights as a ModelScope directory.

    threshold: the cosine of two embeddings from which on they count as one speaker's.
    """
    config = {
        "model": "CAMPPlus",
        "model_conf": ARCHITECTURE,
        "frontend": "WavFrontend",
        "frontend_conf": {"fs": 16000, "n_mels": MEL_BANDS, "dither": 0.0},
        THRESHOLD: round(threshold, 3),
    }
    floating = {name: weight.contiguous() for name, weight in state.items()}
    write_model(model_dir, floating, config, "speaker-verification", {})
