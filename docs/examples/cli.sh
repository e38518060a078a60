.venv/bin/asr-serve transcribe samples/*.wav
.venv/bin/asr-serve transcribe samples/*.wav --format srt --output-dir subtitles
.venv/bin/asr-serve transcribe samples/conversation.wav --plot conversation.png
.venv/bin/asr-serve models list
