"""The command line: ``asr-serve serve | transcribe | jobs | models | doctor``."""
