"""The HTTP side of asr-serve: protocols, audio decoding, the pipelines, and the graph that joins them."""
