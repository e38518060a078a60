"""The command line: ``asr-serve serve | transcribe | models | doctor``."""
