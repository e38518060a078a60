"""Clients of FunASR's WebSocket protocol that send, finish and fail as the well-known ones do.

Written from observation of what goes over the wire: frame sizes, keys and their types, and above all when
each client takes an utterance for finished. Each function returns what its user would see, and raises
:class:`ClientFailed` where the real client would hang, crash or lose text.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Message = dict[str, Any]

PATIENCE = 60.0
"""Seconds after which a client that has no timeout of its own counts as hanging."""

_MAX_SIZE = 80 << 20


class ClientFailed(Exception):
    """The real client would not have got its result."""


@dataclass
class Heard:
    """What a client made of the messages that it took, and the messages."""

    text: str = ""
    messages: list[Message] = field(default_factory=list)


@asynccontextmanager
async def connected(url: str, *, binary: bool = False, **options: Any) -> AsyncIterator[ClientConnection]:
    """A connection, with the subprotocol ``binary`` offered or none."""
    subprotocols = ["binary"] if binary else None
    async with connect(
        url,
        subprotocols=subprotocols,  # type: ignore[arg-type]
        max_size=_MAX_SIZE,
        ping_interval=None,
        open_timeout=PATIENCE,
        proxy=None,
        **options,
    ) as socket:
        if binary and socket.subprotocol not in (None, "binary"):
            raise ClientFailed(f"the server chose {socket.subprotocol!r}")
        yield socket


async def receive(socket: ClientConnection, seconds: float = PATIENCE) -> Message:
    """The next message; a server that sends none leaves a client without a timeout hanging."""
    try:
        async with asyncio.timeout(seconds):
            message: Message = json.loads(await socket.recv())
    except TimeoutError as error:
        raise ClientFailed("hangs: no message came") from error
    except ConnectionClosed as error:
        raise ClientFailed(f"the server closed the connection: {error}") from error
    return message


async def until_closed(
    socket: ClientConnection, patience: float = PATIENCE
) -> tuple[list[Message], int | None]:
    """What still comes until the server closes the connection, and its close code. ``patience``: seconds."""
    messages: list[Message] = []
    async with asyncio.timeout(patience):
        while True:
            try:
                messages.append(json.loads(await socket.recv()))
            except ConnectionClosed:
                return messages, socket.close_code


async def send_json(socket: ClientConnection, **values: Any) -> None:
    await socket.send(json.dumps(values, ensure_ascii=False))


async def send_audio(socket: ClientConnection, audio: bytes, size: int, seconds: float = 0) -> None:
    """Send frames of ``size`` bytes, ``seconds`` apart."""
    for begin in range(0, len(audio), size):
        await socket.send(audio[begin : begin + size])
        await asyncio.sleep(seconds)


def pace(size: int, rate: int, speed: float) -> float:
    """Seconds between frames of ``size`` bytes, at ``speed`` times real time; 0 is without a pause."""
    return size / 2 / rate / speed if speed else 0


async def cpp_offline(
    url: str,
    recordings: Sequence[bytes],
    *,
    wav_format: str = "others",
    hotwords: str = "",
    rate: int = 16_000,
) -> list[Heard]:
    """``funasr-wss-client``: no mode; any one text frame ends a recording; hotwords only the first time.

    Leaves without a close handshake of its own to speak of: it closes with 1001.
    """
    heard = []
    async with connected(url) as socket:
        for index, recording in enumerate(recordings):
            config: Message = {
                "chunk_size": [5, 10, 5],
                "chunk_interval": 10,
                "wav_name": f"wav_{index}",
                "wav_format": wav_format,
                "audio_fs": rate,
                "itn": True,
                "svs_itn": True,
                "is_speaking": True,
            }
            if hotwords and index == 0:
                config["hotwords"] = hotwords
            await send_json(socket, **config)
            await send_audio(socket, recording, 204_800)
            await send_json(socket, is_speaking=False)
            message = await receive(socket)
            if message["wav_name"] != f"wav_{index}":
                raise ClientFailed("the answers are out of step with the recordings")
            heard.append(Heard(message["text"], [message]))
        await socket.close(1001)
    return heard


async def cpp_2pass(
    url: str, pcm: bytes, *, rate: int = 16_000, mode: str = "2pass", speed: float = 1
) -> Heard:
    """``funasr-wss-client-2pass``: leaves at the first ``is_final``; ``audio_fs`` is a float."""
    heard = Heard()
    partial = ""
    async with connected(url) as socket:
        await send_json(
            socket,
            mode=mode,
            chunk_size=[5, 10, 5],
            wav_name="wav_default_id",
            wav_format="pcm",
            audio_fs=float(rate),
            is_speaking=True,
            itn=True,
            svs_itn=True,
        )

        async def speak() -> None:
            size = rate // 1000 * 60 * 2
            await send_audio(socket, pcm, size, pace(size, rate, speed))
            await send_json(socket, is_speaking=False)

        speaker = asyncio.create_task(speak())
        try:
            while not heard.messages or heard.messages[-1]["is_final"] is not True:
                message = await receive(socket)
                heard.messages.append(message)
                if message.get("mode") == "2pass-online":
                    partial += message["text"]
                else:
                    heard.text, partial = heard.text + message["text"], ""
            if not speaker.done():
                raise ClientFailed("leaves before it has sent everything")
        finally:
            speaker.cancel()
            await asyncio.gather(speaker, return_exceptions=True)
        heard.text += partial
        await socket.close(1001)
    return heard


async def java(
    url: str, pcm: bytes, *, mode: str = "offline", hotwords: str = "", suffix: str = "pcm", speed: float = 1
) -> Heard:
    """``FunasrWsClient``: weights of hotwords are strings; offline it needs a true or absent ``is_final``.

    Otherwise it sends its end after a pause of 2 s, and goes 3 s later with what it has.
    """
    heard = Heard()
    async with connected(url) as socket:
        config: Message = {
            "mode": mode,
            "chunk_size": [5, 10, 5],
            "chunk_interval": 10,
            "wav_name": "javatest",
        }
        if hotwords:
            config["hotwords"] = hotwords
        await send_json(socket, **config, wav_format=suffix, is_speaking=True)
        pause = 0 if mode == "offline" else pace(1920, 16_000, speed)
        if mode == "offline":
            await send_audio(socket, pcm, 1920, pause)
            await send_json(socket, is_speaking=False)
            while not heard.messages or heard.messages[-1].get("is_final", True) is not True:
                heard.messages.append(await receive(socket))
        else:
            listener = asyncio.create_task(_collect(socket, heard.messages))
            await send_audio(socket, pcm, 1920, pause)
            await asyncio.sleep(2 / speed if speed else 0)
            await send_json(socket, is_speaking=False)
            await asyncio.sleep(3)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
    heard.text = text_of(heard.messages)
    return heard


async def _collect(socket: ClientConnection, messages: list[Message]) -> None:
    while True:
        messages.append(json.loads(await socket.recv()))


async def h5_file(url: str, file: bytes, *, extension: str = "wav", rate: int = 16_000) -> Heard:
    """The web page with a file: floods frames of 960 bytes, repeats keys in its end, needs ``true`` to close.

    A WAV goes out as ``PCM`` together with its header. ``heard.text`` is what its text area shows.
    """
    heard = Heard()
    config: Message = {
        "chunk_size": [5, 10, 5],
        "wav_name": "h5",
        "is_speaking": True,
        "chunk_interval": 10,
        "itn": False,
        "mode": "offline",
    }
    if extension == "wav":
        config |= {"wav_format": "PCM", "audio_fs": rate}
    else:
        config["wav_format"] = extension
    async with connected(url) as socket:
        await send_json(socket, **config)
        await send_audio(socket, file, 960)
        end = {key: config[key] for key in ("chunk_size", "wav_name", "chunk_interval", "mode")}
        await send_json(socket, **end, is_speaking=False)
        while not heard.messages or heard.messages[-1]["is_final"] is not True:
            message = await receive(socket)
            heard.messages.append(message)
            shown = shown_by_h5(str(message["text"]), message.get("timestamp"))
            if message["mode"] in ("2pass-offline", "offline"):
                heard.text += shown
    return heard


def shown_by_h5(text: str, timestamp: Any) -> str:
    """What the page makes of a text: a line with its begin for each clause, by counting characters.

    Raises:
        ClientFailed: the page's script stops here, and the text is never shown.
    """
    if timestamp is None or not text:
        return text
    if not isinstance(timestamp, str):
        raise ClientFailed("JSON.parse of what is no string")
    times, index, lines = json.loads(timestamp), 0, ""
    for part in filter(None, re.split("[。？，、?. ,]", text)):
        if index >= len(times):
            raise ClientFailed(f"no time for {part!r} of {text!r}: {len(times)} pairs")
        lines += f"{times[index][0] / 1000:g}:{part}\n"
        index += 1 if re.fullmatch("[a-zA-Z]+", part) else len(part)
    return lines


async def xiaozhi_fun_server(url: str, pcm: bytes, *, session: str = "session-1") -> Heard:
    """xiaozhi's ``fun_server``: the utterance in one frame; all answers within 5 s of connecting.

    Strings texts together until ``is_final`` is true or absent.
    """
    heard = Heard()
    headers = {"Authorization": "Bearer; none"}
    async with connected(url, binary=True, additional_headers=headers) as socket:
        deadline = asyncio.get_running_loop().time() + 5
        await send_json(
            socket,
            mode="offline",
            chunk_size=[5, 10, 5],
            chunk_interval=10,
            wav_name=session,
            is_speaking=True,
            itn=False,
        )
        await socket.send(pcm)
        await send_json(socket, is_speaking=False)
        while not heard.messages or heard.messages[-1].get("is_final", True) is not True:
            heard.messages.append(await receive(socket, deadline - asyncio.get_running_loop().time()))
            heard.text += heard.messages[-1]["text"]
    return heard


async def python_2026(
    url: str,
    pcm: bytes,
    *,
    mode: str = "2pass",
    rate: int = 16_000,
    wav_format: str = "pcm",
    speed: float = 1,
    hotwords: str = "",
) -> Heard:
    """The Python client since July 2026: waits for the acknowledgement of its ``is_end``."""
    heard = Heard()
    async with connected(url, binary=True) as socket:
        await send_json(
            socket,
            mode=mode,
            chunk_size=[5, 10, 5],
            chunk_interval=10,
            encoder_chunk_look_back=4,
            decoder_chunk_look_back=0,
            audio_fs=rate,
            wav_name="demo",
            wav_format=wav_format,
            is_speaking=True,
            hotwords=hotwords,
            itn=True,
        )
        size = rate * 60 // 1000 * 2
        await send_audio(socket, pcm, size, 0 if mode == "offline" else pace(size, rate, speed))
        await send_json(socket, is_speaking=False, is_end=True)
        while not heard.messages or not heard.messages[-1].get("is_end"):
            heard.messages.append(await receive(socket))
        if not heard.messages[-1]["is_final"]:
            raise ClientFailed(f"the server did not finalize: {heard.messages[-1].get('error')}")
    heard.text = text_of(heard.messages)
    return heard


def text_of(messages: Sequence[Message]) -> str:
    """The text that most clients end up with: increments, replaced by the final of their sentence."""
    final = partial = ""
    for message in messages:
        if message["mode"] in ("2pass-online", "online"):
            partial += message.get("text", "")
        elif "text" in message:
            final, partial = final + message["text"], ""
    return final + partial
