"""What goes wrong with models on their way to this machine."""


class ModelHubError(Exception):
    """A model cannot be fetched, packed, unpacked or removed; the message says why and what to do."""


class HubUnreachable(ModelHubError):
    """A hub does not answer. Another one may."""


class DamagedDownload(ModelHubError):
    """A file came from a hub that is not what that hub says it is, and came so again and again."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, without its period, to end a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
