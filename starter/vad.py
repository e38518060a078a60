"""The `fsmn-vad` starter model: FunASR's streaming FSMN voice activity detector, trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from funasr.models.fsmn_vad_streaming.encoder import FSMN

from starter.registry import Row, TrainOptions, save_facts
from starter.training import Schedule, optimize, progress_bar, write_model
from starter.vad_data import CONTEXT, ClipMaker, Features, frame_labels, stack
from starter.vad_evaluate import measure
from starter.voices import SEEN_VOICES

DEFAULT_MINUTES = 8.0

ABOUT = """
FunASR's `FsmnVADStreaming` with the encoder of `iic/speech_fsmn_vad_zh-cn-16k-common-pytorch` (four
FSMN blocks, 80 log-mel bands in stacks of five frames, 10 ms a frame, causal but for two frames), offline
and streaming. It was trained from scratch on clips of several generated Mandarin sentences spoken by
espeak-ng with pauses, clean or with noise, hum, clicks, tones, through a telephone line or MP3, and on clips
of noise alone. Output 0 is silence; the other outputs together are speech.

Two settings differ from that checkpoint's: `lookback_time_start_point` is 100 ms (200) and
`lookahead_time_end_point` 60 ms (100), so that segments keep closer to the speech. Pass
`max_end_silence_time=800` to `generate`: without it funasr 1.4 replaces the value in the configuration by a
schedule that begins at 2 s.

How it was measured. Speech is where the clean synthesized utterance sounds: the synthesizer's own character
times, joined over gaps below 150 ms and trimmed to the first and last 10 ms within 40 dB of the utterance's
level. Frame accuracy takes a 10 ms frame as speech where FunASR does, p(speech) >= p(silence) + 0.6. Boundary
errors compare the segments of `generate(max_end_silence_time=800)` with the first and last speech of each
utterance (pauses between utterances 1.3 to 3 s), with no allowance for the margin that FunASR adds on
purpose. A negative median means that the segment's boundary comes early.
"""

ENCODER: dict[str, Any] = {
    "input_dim": 80 * CONTEXT,
    "input_affine_dim": 140,
    "fsmn_layers": 4,
    "linear_dim": 250,
    "proj_dim": 128,
    "lorder": 20,
    "rorder": 0,
    "lstride": 1,
    "rstride": 0,
    "output_affine_dim": 140,
    "output_dim": 248,
    "use_softmax": True,
}
FRONTEND: dict[str, Any] = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "dither": 0.0,
    "lfr_m": CONTEXT,
    "lfr_n": 1,
}
_DETECTION: dict[str, Any] = {
    "sample_rate": 16000,
    "detect_mode": 1,
    "snr_mode": 0,
    "max_end_silence_time": 800,
    "max_start_silence_time": 3000,
    "do_start_point_detection": True,
    "do_end_point_detection": True,
    "window_size_ms": 200,
    "sil_to_speech_time_thres": 150,
    "speech_to_sil_time_thres": 150,
    "speech_2_noise_ratio": 1.0,
    "do_extend": 1,
    "lookback_time_start_point": 100,
    "lookahead_time_end_point": 60,
    "max_single_segment_time": 60000,
    "snr_thres": -100.0,
    "noise_frame_num_used_for_snr": 100,
    "decibel_thres": -100.0,
    "speech_noise_thres": 0.6,
    "fe_prior_thres": 0.0001,
    "silence_pdf_num": 1,
    "sil_pdf_ids": [0],
    "speech_noise_thresh_low": -0.1,
    "speech_noise_thresh_high": 0.3,
    "output_frame_probs": False,
    "frame_in_ms": 10,
    "frame_length_ms": 25,
}

_CLIPS = 2600
_CLIP_SECONDS = 12.0
_BATCH = 8
_PEAK_RATE = 2e-3
_WARMUP = 50
# A posterior of exactly 0 or 1 makes FunASR's detector take log(0), so the model is taught to stay unsure.
_SMOOTHING = 0.06
# Optimization steps that one core of the machine this was written on does in a minute. Turning minutes into
# steps keeps a training repeatable, which stopping by the clock would not be.
_STEPS_PER_MINUTE = 120


def train(options: TrainOptions) -> None:
    """Make the clips (or read them from `options.work`), train on one thread, write the model directory.

    One process is enough: `options.processes` is not used.
    """
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    mel, labels = _training_data(options.work / f"clips-{options.seed}-{_CLIPS}.npz", options.seed)
    mean, deviation = _normalization(mel, labels)
    torch.manual_seed(options.seed)
    encoder = FSMN(**ENCODER)
    encoder.use_softmax = False
    batch_loss = _batch_loss(encoder, (mel, labels), (mean, deviation))
    steps = max(2 * _WARMUP, round(options.minutes * _STEPS_PER_MINUTE))
    minutes = optimize(
        encoder,
        lambda step: batch_loss(_batch(step, len(mel), options.seed)),
        Schedule(steps, _PEAK_RATE, _WARMUP),
        options.work / f"checkpoint-{options.seed}-{steps}.pt",
        "fsmn-vad",
    )
    export(encoder, mean, deviation, options.output)
    save_facts(
        options.output,
        {
            "data": f"{_CLIPS} clips of {_CLIP_SECONDS:.0f} s ({_CLIPS * _CLIP_SECONDS / 3600:.1f} h)",
            "voices": len(SEEN_VOICES),
            "parameters": sum(weight.numel() for weight in encoder.parameters()),
            "optimization steps": steps,
            "training time on one core, data not counted": f"{minutes:.1f} min",
            "seed": options.seed,
        },
    )


def evaluate(model_dir: Path) -> list[Row]:
    """Frame accuracy, boundary errors and false alarms through funasr.AutoModel; takes some minutes."""
    return measure(model_dir)


def export(encoder: FSMN, mean: torch.Tensor, deviation: torch.Tensor, model_dir: Path) -> None:
    """Write the model as a ModelScope directory. mean, deviation: shape (80,)."""
    config = {
        "frontend": "WavFrontendOnline",
        "frontend_conf": FRONTEND,
        "model": "FsmnVADStreaming",
        "model_conf": _DETECTION,
        "encoder": "FSMN",
        "encoder_conf": ENCODER,
    }
    state = {f"encoder.{name}": weight for name, weight in encoder.state_dict().items()}
    files = {"frontend_conf": {"cmvn_file": "am.mvn"}}
    write_model(model_dir, state, config, "voice-activity-detection", files)
    (model_dir / "am.mvn").write_text(_kaldi_normalization(mean, deviation), "utf-8")


def _training_data(cache: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """mel: float16 (clips, frames, 80); labels: bool (clips, frames)."""
    if not cache.exists():
        maker, features = ClipMaker(seed, "train", SEEN_VOICES), Features(FRONTEND)
        mel, labels = [], []
        with progress_bar() as progress:
            for _ in progress.track(range(_CLIPS), description="clips"):
                clip = maker.training_clip(_CLIP_SECONDS)
                mel.append(features.mel(clip.samples).astype(np.float16))
                labels.append(frame_labels(clip.spans, len(mel[-1])))
        partial = cache.with_suffix(".partial.npz")
        np.savez(partial, mel=np.stack(mel), labels=np.stack(labels))
        partial.replace(cache)
    with np.load(cache) as stored:
        return torch.from_numpy(stored["mel"]), torch.from_numpy(stored["labels"])


def _normalization(mel: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each band over the clips with speech; digital silence would stretch the scale."""
    frames = mel[labels.any(dim=1)][::4].float().flatten(0, 1)
    frames = frames[frames.mean(dim=1) > 0]
    return frames.mean(dim=0), frames.std(dim=0)


def _batch_loss(
    encoder: FSMN, data: tuple[torch.Tensor, torch.Tensor], normal: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss on some rows of `data` (mel, labels), normalized with `normal` (mean, deviation)."""
    (mel, labels), (mean, deviation) = data, normal

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return _loss(encoder(stack((mel[rows].float() - mean) / deviation)), labels[rows])

    return loss


def _loss(logits: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of silence (output 0) against all other outputs together, with label smoothing."""
    evidence = torch.logsumexp(logits[..., 1:], dim=-1) - logits[..., 0]
    target = speech.float() * (1 - _SMOOTHING) + _SMOOTHING / 2
    return torch.nn.functional.binary_cross_entropy_with_logits(evidence, target)


def _batch(step: int, clips: int, seed: int) -> torch.Tensor:
    """Row numbers of a step's batch: the same for the same seed, wherever the training was interrupted."""
    epoch, index = divmod(step, clips // _BATCH)
    order = np.random.default_rng((seed, epoch)).permutation(clips)
    return torch.from_numpy(order[index * _BATCH : (index + 1) * _BATCH])


def _kaldi_normalization(mean: torch.Tensor, deviation: torch.Tensor) -> str:
    """Kaldi's text form of (x - mean) / deviation, repeated for every frame of the stack."""
    size = CONTEXT * len(mean)
    shift = " ".join(f"{-value:.6f}" for value in mean.repeat(CONTEXT).tolist())
    scale = " ".join(f"{1 / value:.6f}" for value in deviation.repeat(CONTEXT).tolist())
    return (
        f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )
