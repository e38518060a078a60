"""What keeps an edge from running."""


class EdgeError(Exception):
    """The edge cannot run; the message says why and what to do."""


class HaproxyMissing(EdgeError):
    """This machine has no HAProxy."""
