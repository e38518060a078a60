tail -c +45 samples/home.wav |
  curl -F file=@- -F format=pcm -F sample_rate=16000 localhost:8000/v1/audio/transcriptions
