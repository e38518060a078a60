"""Marks tests that synthesize speech."""

import pytest

from starter.synth import SynthesisError, load_library


def _library_is_missing() -> bool:
    try:
        load_library()
    except SynthesisError:
        return True
    return False


needs_espeak = pytest.mark.skipif(
    _library_is_missing(), reason="libespeak-ng.so.1 is not installed (apt install espeak-ng)"
)
