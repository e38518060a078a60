"""What the live page says when something goes wrong."""

from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from tests.live_page import INSECURE_HOST, LivePage, needs_browser
from tests.scripted_funasr import Script, ScriptedServer, partial

pytest_plugins = ["tests.live_page_fixtures"]


@needs_browser
def test_no_server(page: LivePage) -> None:
    page.fill("address", "ws://127.0.0.1:9/nobody")
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == "unreachable"
    assert "ws://127.0.0.1:9/nobody" in page["notice"].text
    assert page["start"].text == "Start"


@needs_browser
@pytest.mark.parametrize(
    ("script", "fault", "says"),
    [
        (Script(during=((0.6, partial("你好")),), close=(1011, "")), "connectionLost", "1011"),
        (Script(close=(1008, "wrong key")), "closedWithReason", "wrong key"),
        (
            Script(
                during=((0.3, {"mode": "2pass-offline", "text": "", "is_final": True, "error": "Too loud."}),)
            ),
            "serverError",
            "Too loud.",
        ),
    ],
    ids=["lost", "refused", "error"],
)
def test_server_faults(
    page: LivePage, scripted: ScriptedServer, script: Script, fault: str, says: str
) -> None:
    scripted.script = script
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == fault
    assert says in page["notice"].text
    assert page.partials == [reply["text"] for _, reply in script.during if reply["text"]]


@needs_browser
def test_an_unanswered_end_can_be_canceled(page: LivePage, scripted: ScriptedServer) -> None:
    scripted.script = Script()
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.wait(lambda: page.phase == "finishing")
    assert page["start"].text == "Cancel"
    page.press("start")
    page.finish(among=["cancelled"])
    assert page.fault == ""


@needs_browser
@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("NotAllowedError", "microphoneDenied"),
        ("NotFoundError", "microphoneMissing"),
        ("NotReadableError", "microphoneBusy"),
        ("TypeError", "microphoneFailed"),
    ],
)
def test_no_microphone(page: LivePage, scripted: ScriptedServer, error: str, fault: str) -> None:
    page.driver.execute_script(
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', arguments[0]))",
        error,
    )
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == fault
    assert scripted.sessions == []


@needs_browser
def test_insecure_page_explains_the_microphone_and_still_takes_files(
    page: LivePage, scripted: ScriptedServer
) -> None:
    page = LivePage(page.driver, scripted.url.replace("127.0.0.1", INSECURE_HOST))
    assert page.fault == "insecureContext"
    assert page["drop"].is_displayed()
    page.choose("source", "microphone")
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == "insecureContext"
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.finish()
    assert page.fault == ""


@needs_browser
def test_files_that_cannot_be_sent(page: LivePage, tmp_path: Path) -> None:
    page.choose("source", "file")
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == "noFile"
    path = tmp_path / "letter.mp3"
    path.write_bytes(b"Dear Sir or Madam")
    page["file"].send_keys(str(path))
    page.press("start")
    page.wait(lambda: page.fault == "fileNotDecoded")
    assert "letter.mp3" in page["notice"].text


@needs_browser
@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("chunk-size", "0,0,5", "badChunk"),
        ("chunk-size", "ten", "badChunk"),
        ("chunk-interval", "0", "badInterval"),
        ("address", "ftp://a/b", "badAddress"),
    ],
)
def test_settings_that_make_no_sense(
    page: LivePage, scripted: ScriptedServer, field: str, value: str, fault: str
) -> None:
    page.fill(field, value)
    page.press("start")
    assert page.fault == fault
    assert page.phase == "idle"
    assert scripted.sessions == []
