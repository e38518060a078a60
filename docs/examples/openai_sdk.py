from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="unused")

with open("samples/meeting.wav", "rb") as audio:
    transcript = client.audio.transcriptions.create(
        model="whisper-1",  # any name will do
        file=audio,
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
    )

for segment in transcript.segments or []:
    print(f"{segment.start:6.2f} - {segment.end:6.2f}  {segment.text}")
