"""Keeps Ray's own processes from reaching for the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import ray_constants, services

_NOBODY = "http://127.0.0.1:9"
"""A proxy at a port on which nothing listens."""


@contextmanager
def no_questions_to_clouds() -> Iterator[None]:
    """Ray that is started meanwhile does not ask the clouds' metadata services which of them it runs in.

    Version 2.60 does so in its dashboard's process, at addresses outside of this machine, even with usage
    statistics and the dashboard off, and has no setting against it
    (``ray._common.usage.usage_lib.get_cloud_from_metadata_requests``).
    """
    start = services.start_ray_process

    def quiet(command: Any, process_type: str, *args: Any, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            proxies = {"http_proxy": _NOBODY, "HTTP_PROXY": _NOBODY, "no_proxy": "", "NO_PROXY": ""}
            options["env_updates"] = {**(options.get("env_updates") or {}), **proxies}
        return start(command, process_type, *args, **options)

    services.start_ray_process = quiet
    try:
        yield
    finally:
        services.start_ray_process = start
