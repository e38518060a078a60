curl -N -F file=@samples/meeting.wav -F stream=true localhost:8000/v1/audio/transcriptions
