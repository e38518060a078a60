id=$(.venv/bin/asr-serve jobs submit samples/meeting.wav)
curl -N localhost:8000/v1/jobs/$id/events
curl "localhost:8000/v1/jobs/$id/result?response_format=srt"
.venv/bin/asr-serve jobs submit samples/*.wav --wait --format vtt --output-dir subtitles
.venv/bin/asr-serve jobs list
