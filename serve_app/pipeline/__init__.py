"""Pure logic between audio and text: no FastAPI, no Ray, no sockets."""
