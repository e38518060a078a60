curl -F file=@samples/home.wav localhost:8000/v1/audio/transcriptions
