curl -F file=@samples/conversation.wav -F response_format=srt localhost:8000/v1/audio/transcriptions
