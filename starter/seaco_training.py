"""Trains the parts of the hotword model that the recognizer lacks; the recognizer itself stays as it is."""

from __future__ import annotations

import numpy as np
import torch

from starter.registry import MODELS_DIR, TrainOptions, save_facts
from starter.seaco_batches import CLIPS, Batch, make_batch, random_hotwords
from starter.seaco_data import Rows, load_shards, make_shards
from starter.seaco_model import NO_BIAS, BiasNetwork, build_seaco, export_seaco
from starter.training import Schedule, optimize

RECOGNIZER = MODELS_DIR / "paraformer"
_READING_UPDATES, _READING_RATE, _READ_TOGETHER = 800, 3e-3, 256
_UPDATES_PER_MINUTE = 200
_PEAK_RATE, _WARMUP = 1e-3, 300
_QUIET_WEIGHT = 0.4
"""At first, "no hotword here", which six of seven tokens are, counts less."""
_GUIDANCE, _LEAST_GUIDANCE = 1.0, 0.1
_LONGEST = 5


def train_seaco(options: TrainOptions) -> None:
    """Make the clips (or read them from `options.work`), train, write the model directory."""
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_shards(options.work / "data", RECOGNIZER, options.seed, options.processes)
    clips = load_shards(paths[:-1])
    torch.set_num_threads(options.processes)
    torch.manual_seed(options.seed)
    network = new_network()
    minutes = _learn_to_read(network, options)
    schedule = Schedule(round(options.minutes * _UPDATES_PER_MINUTE), _PEAK_RATE, _WARMUP)

    def loss_of_step(step: int) -> torch.Tensor:
        chosen = _clips_of_step(clips, options.seed, step)
        batch = make_batch(chosen, "train", np.random.default_rng((options.seed, 1, step)))
        return batch_loss(network, batch, step / schedule.steps)

    minutes += optimize(network, loss_of_step, schedule, options.work / "checkpoint.pt", "hotwords")
    export_seaco(options.output, RECOGNIZER, network)
    save_facts(
        options.output,
        {
            "clips": len(clips),
            "clips with names": sum(bool(clip.names) for clip in clips),
            "parameters trained": sum(value.numel() for value in network.parameters()),
            "training minutes": round(minutes, 1),
            "threads": options.processes,
            "updates": schedule.steps,
            "seed": options.seed,
        },
    )


def _learn_to_read(network: BiasNetwork, options: TrainOptions) -> float:
    """Train the LSTM alone to remember the characters of names and their order; gives the minutes taken.

    Without it, attention finds nothing in its states to look for, and the rest learns next to nothing.
    """
    vocabulary, width = network.hotword_output_layer.weight.shape
    spell = torch.nn.Linear(width, _LONGEST * vocabulary)
    parts = torch.nn.ModuleDict({"read": network.bias_encoder, "spell": spell})

    def loss_of_step(step: int) -> torch.Tensor:
        names = random_hotwords(_READ_TOGETHER, np.random.default_rng((options.seed, 2, step)))
        scores = spell(network.represent(names)).view(len(names), _LONGEST, vocabulary)
        padded = torch.nn.utils.rnn.pad_sequence(names, batch_first=True, padding_value=-1)
        scores = scores[:, : padded.shape[1]].flatten(0, 1)
        return torch.nn.functional.cross_entropy(scores, padded.flatten(), ignore_index=-1)

    schedule = Schedule(_READING_UPDATES, _READING_RATE, 100)
    return optimize(parts, loss_of_step, schedule, options.work / "checkpoint-reading.pt", "reading")


def new_network() -> BiasNetwork:
    """Untrained, over the starter recognizer's embedding of characters."""
    model = build_seaco()
    state = torch.load(RECOGNIZER / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    return BiasNetwork(model)


def batch_loss(network: BiasNetwork, batch: Batch, progress: float) -> torch.Tensor:
    """Cross-entropy over the vocabulary, "no hotword here" being one of its classes, plus that of attention,
    which shall go to the hotword that is spoken. progress: share of the training that is done.
    """
    scores, attention = network(batch.acoustic, batch.hidden, batch.row_mask, batch.hotwords, batch.heeded)
    rows = batch.labels >= 0
    labels, looked_at = batch.labels[rows], batch.looked_at[rows]
    quiet = _QUIET_WEIGHT + (1 - _QUIET_WEIGHT) * min(1.0, 2 * progress)
    weights = torch.where(labels == NO_BIAS, quiet, 1.0)
    written = torch.nn.functional.cross_entropy(scores[rows], labels, reduction="none")
    found = attention[:, rows].gather(2, looked_at.expand(len(attention), -1)[..., None])[..., 0]
    missed = -torch.log(found + 1e-6).mean(0)
    guidance = _GUIDANCE + (_LEAST_GUIDANCE - _GUIDANCE) * progress
    return ((written + guidance * missed) * weights).sum() / weights.sum()


def _clips_of_step(clips: list[Rows], seed: int, step: int) -> list[Rows]:
    """The same for the same seed, wherever the training was interrupted."""
    epoch, index = divmod(step, len(clips) // CLIPS)
    order = np.random.default_rng((seed, 0, epoch)).permutation(len(clips))
    return [clips[number] for number in order[index * CLIPS : (index + 1) * CLIPS]]
