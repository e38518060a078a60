"""The text that Qwen3-ASR is asked with: exactly what it was trained on, and nothing that it was not.

Source: ``_build_text_prompt`` of the qwen-asr package. A system turn holds the context and nothing else, a
user turn the audio. A known language is told by beginning the answer for the model.
"""

import re

from deployments.engines.qwen3_languages import LANGUAGES

AUDIO_PAD = "<|audio_pad|>"
ASR_TEXT = "<asr_text>"

_CONTROL = re.compile(r"<\|[^<>]*\|>|</?[a-z_]+>", re.IGNORECASE)
"""What the tokenizer may read as one token: ``<|im_end|>``, ``<asr_text>``, ``<timestamp>``, ``<think>``…"""


def sanitized(context: str) -> str:
    """The context without anything that would be read as a control token, so that it stays text.

    Taking one token out may join another one, so it is done until there is none.
    """
    while (cleaned := _CONTROL.sub("", context)) != context:
        context = cleaned
    return context.strip()


def prompt_text(windows: int, language: str | None, context: str) -> str:
    """The prompt for audio of so many windows, with one placeholder for each.

    The engine gives each placeholder the length of its window. ``language`` is the model's own name, such as
    ``Chinese``: the answer is then text only. ``context`` may be anything: it is cleaned here.

    Raises:
        ValueError: the model does not know the language.
    """
    if language is not None and language not in LANGUAGES.values():
        known = ", ".join(LANGUAGES.values())
        raise ValueError(f"Qwen3-ASR knows no language {language!r}, only {known}")
    answer = f"language {language}{ASR_TEXT}" if language else ""
    return (
        f"<|im_start|>system\n{sanitized(context)}<|im_end|>\n"
        f"<|im_start|>user\n<|audio_start|>{AUDIO_PAD * windows}<|audio_end|><|im_end|>\n"
        f"<|im_start|>assistant\n{answer}"
    )
