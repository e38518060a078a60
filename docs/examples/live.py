import asyncio
import json
import wave

from websockets.asyncio.client import ClientConnection, connect


async def speak(server: ClientConnection) -> None:
    with wave.open("samples/travel.wav") as audio:  # 16 kHz, 16 bit, mono
        while packet := audio.readframes(960):  # 60 ms
            await server.send(packet)
            await asyncio.sleep(0.06)  # as a microphone would
    await server.send(json.dumps({"is_speaking": False}))


async def main() -> None:
    async with connect("ws://localhost:8000/") as server:
        await server.send(json.dumps({"mode": "2pass"}))
        speaking = asyncio.create_task(speak(server))
        async for message in server:
            result = json.loads(message)
            heard = result["mode"] == "2pass-online"
            print("..." if heard else "=> ", result["text"])
            if result["is_final"]:
                break
        await speaking


asyncio.run(main())
