"""Aliyun's HTTP APIs: one sentence, flash file, file transcription; and what funasr-api made of them."""
