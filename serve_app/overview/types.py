"""The shape of it. No Ray, no HTTP. It holds neither keys nor anything that clients said."""

from collections.abc import Awaitable, Callable

from pydantic import BaseModel, Field


class LoadView(BaseModel):
    """Work of all replicas of a deployment that told of theirs; see :class:`deployments.load.StageLoad`."""

    replicas: int = Field(description="Replicas that told.")
    waiting_items: int = Field(description="Items that no batch has taken yet.")
    waiting_audio_seconds: float = Field(description="Their audio; 0 where items are text.")
    running_items: int = Field(description="Items that are being worked on.")
    running_audio_seconds: float = Field(description="Their audio.")
    oldest_wait_seconds: float = Field(description="How long the item that waits longest has waited.")
    lag_seconds: float = Field(
        description="From the arrival of live audio to its result, 95th percentile of the worst replica."
    )
    busy: float = Field(description="Share of the last 10 s in which the models worked, mean of replicas.")
    audio_per_busy_second: float = Field(description="Audio per second of work, mean; 0: not known.")
    drain_seconds: float = Field(description="Work that waits or runs, for the replica that has most.")


class ReplicaView(BaseModel):
    """One process."""

    id: str
    state: str = Field(description="Serve's word: STARTING, RUNNING, STOPPING, ...")
    node: str | None = Field(description="Address of its machine.")
    pid: int | None
    seconds: float = Field(description="Since it was started.")


class DeploymentView(BaseModel):
    """One stage of the graph."""

    name: str
    status: str = Field(description="Serve's word: HEALTHY, UPDATING, UPSCALING, UNHEALTHY, ...")
    message: str = Field(description="What is wrong with it, if Serve says so.")
    running: int = Field(description="Replicas that take requests.")
    target: int = Field(description="Replicas that there should be.")
    replicas: list[ReplicaView]
    load: LoadView | None = Field(description="Null where no replica told in time, or none keeps count.")


class TrafficView(BaseModel):
    """Whom all ingress replicas serve."""

    ingress_replicas: int
    live_sessions: int
    max_live_sessions: int
    files: int
    max_concurrent_files: int


class JobsView(BaseModel):
    """Jobs of the whole database."""

    queued: int
    running: int


class Overview(BaseModel):
    """What runs at one moment."""

    version: str
    time: float = Field(description="Of the clock of the server, in seconds since 1970.")
    models: list[str] = Field(description="Names of the recognizers.")
    deployments: list[DeploymentView]
    traffic: TrafficView | None = Field(description="Null if no ingress told in time.")
    jobs: JobsView | None = Field(description="Null if nobody who works on jobs told in time.")


OverviewSource = Callable[[], Awaitable[Overview]]
