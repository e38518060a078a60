"""The audio that the live page sends: from the microphone and from files, as it was."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from tests.conftest import SAMPLES
from tests.live_page import SPOKEN, LivePage, chromium, needs_browser
from tests.scripted_funasr import BYTES_PER_SECOND, ScriptedServer

pytest_plugins = ["tests.live_page_fixtures"]


Pcm = npt.NDArray[np.int16]


def pcm(path: Path) -> Pcm:
    return np.asarray(soundfile.read(path, dtype="int16")[0], np.int16)


@needs_browser
def test_settings_reach_the_server(page: LivePage, scripted: ScriptedServer) -> None:
    page.choose("mode", "online")
    page.fill("chunk-size", "5,8,4")
    page.fill("chunk-interval", "4")
    page.fill("token", "a secret&")
    page.choose_file(SAMPLES / "home.wav", fast=True)
    assert "480" in page["chunk-note"].text
    assert "120" in page["chunk-note"].text
    page.press("start")
    page.finish()
    (session,) = scripted.sessions
    assert session.query == {"token": "a secret&"}
    config = {"mode": "online", "chunk_size": [5, 8, 4], "chunk_interval": 4, "wav_name": "home.wav"}
    assert session.messages[0].items() >= config.items()
    assert {len(packet) for packet in session.packets[:-1]} == {3840}
    assert session.audio == pcm(SAMPLES / "home.wav").tobytes()


def best_match(heard: Pcm, spoken: Pcm) -> float:
    """Correlation of two recordings at the shift that fits best."""
    size = 1 << (len(heard) + len(spoken)).bit_length()
    spectra = np.fft.rfft(heard.astype(float), size) * np.conj(np.fft.rfft(spoken.astype(float), size))
    return float(np.fft.irfft(spectra).max() / (np.linalg.norm(heard) * np.linalg.norm(spoken)))


@needs_browser
@pytest.mark.parametrize("converter", ["browser", "worklet"])
@pytest.mark.slow
def test_microphone_audio_arrives_unharmed(page: LivePage, scripted: ScriptedServer, converter: str) -> None:
    if converter == "worklet":
        # What Firefox does: a microphone connects only to a context of the device's own rate.
        page.driver.execute_script(
            "const Real = AudioContext; window.AudioContext = class extends Real { constructor(options) {"
            " if (options) throw new Error('other rate'); super({sampleRate: 44100}); } };"
        )
    spoken = pcm(SPOKEN)
    page.press("start")
    page.wait(
        lambda: scripted.sessions and len(scripted.sessions[0].audio) > 2 * len(spoken) + BYTES_PER_SECOND
    )
    page.press("start")
    page.finish()
    heard = np.frombuffer(scripted.sessions[0].audio, "<i2")
    assert best_match(heard, spoken) > 0.98


@needs_browser
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampler(page: LivePage, rate: int) -> None:
    """A tone inside the band comes out as it went in, at the right times; one above it does not come out."""
    script = """
        const { Resampler } = await load('audio.js');
        const [rate, hz] = args;
        const resampler = new Resampler(rate), step = 2 * Math.PI * hz / rate;
        const out = [];
        for (let at = 0; at < rate; at += 128) {
          const block = Float32Array.from({length: 128}, (_, i) => Math.sin(step * (at + i)));
          out.push(...resampler.process(block));
        }
        return [...out, ...resampler.flush()];
    """
    inside = np.array(page.evaluate(script, rate, 1000))
    assert abs(len(inside) - 16_000) <= 128 * 16_000 / rate + 1
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(inside)) / 16_000)
    middle = slice(200, -400)
    assert np.abs(inside - expected)[middle].max() < 2e-3
    if rate > 22050:
        outside = np.array(page.evaluate(script, rate, 10_000))
        assert np.abs(outside[middle]).max() < 2e-3


@needs_browser
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_other_rates_and_channels_are_sent_whole(
    page: LivePage, scripted: ScriptedServer, tmp_path: Path, channels: int
) -> None:
    path = tmp_path / "tone.flac"
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    soundfile.write(path, np.stack([wave] * channels, axis=1), 44_100)
    page.choose_file(path, fast=True)
    page.press("start")
    page.finish()
    (session,) = scripted.sessions
    samples = np.frombuffer(session.audio, "<i2")
    assert abs(len(samples) - 16_000) <= 2
    expected = 16384 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16_000)
    assert np.abs(samples - expected)[500:-500].max() < 200
    assert session.messages[0]["wav_name"] == "tone.flac"


@needs_browser
@pytest.mark.slow
def test_a_quiet_microphone_is_pointed_out(scripted: ScriptedServer, downloads: Path, tmp_path: Path) -> None:
    path = tmp_path / "far.wav"
    soundfile.write(path, (pcm(SPOKEN) // 64).astype(np.int16), 16_000)
    with chromium(path, downloads) as driver:
        page = LivePage(driver, scripted.url)
        page.press("start")
        page.wait(page["hint"].is_displayed)
        assert "very quiet" in page["hint"].text
        assert "-40 dBFS" in page["hint"].text
        page.press("start")
        page.wait(lambda: not page["hint"].is_displayed())
        page.press("start")
        page.finish(among=["done", "cancelled"])
