"""What must be in the environment before Ray is imported."""

import os
import secrets


def prepare_for_ray(*, alone: bool) -> None:
    """Turn usage statistics off and give Ray a token, unless the user has decided otherwise.

    Without a token Ray 2.60 writes one into the home directory. One per run needs no file, and keeps two
    servers on one machine apart.

    ``alone``: nobody outside of this machine is to reach one of Ray's ports. Ray 2.60 opens them for all
    networks, unless it takes this for a desktop, where it forms no cluster; a program that connects to it
    then has to do the same.
    """
    if alone:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
