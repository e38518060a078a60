"""What must be in the environment before Ray is imported."""

import os
import secrets


def prepare_for_ray() -> None:
    """Turn usage statistics off and give Ray a token, unless the user has decided otherwise.

    Without a token Ray 2.60 writes one into the home directory. One per run needs no file, and keeps two
    servers on one machine apart.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
