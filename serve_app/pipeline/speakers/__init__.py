"""Who spoke when: voices of a recording, or of a live session, told apart. Pure: no sockets, no Ray."""
