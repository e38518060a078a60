curl -F file=@samples/meeting.wav -F response_format=srt localhost:8000/v1/audio/transcriptions
