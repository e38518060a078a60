"""The session machine: live audio in, typed events out. No sockets and no Ray in it."""
