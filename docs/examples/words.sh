curl -F file=@samples/home.wav -F response_format=verbose_json -F "timestamp_granularities[]=word" \
  localhost:8000/v1/audio/transcriptions
