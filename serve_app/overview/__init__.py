"""What runs at this moment, and how much there is to do: what ``/admin`` and ``asr-serve top`` show."""

from serve_app.overview.types import (
    DeploymentView,
    JobsView,
    LoadView,
    Overview,
    OverviewSource,
    ReplicaView,
    TrafficView,
)

__all__ = [
    "DeploymentView",
    "JobsView",
    "LoadView",
    "Overview",
    "OverviewSource",
    "ReplicaView",
    "TrafficView",
]
