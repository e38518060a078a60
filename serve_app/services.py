"""What the routers of all protocols share: built once per ingress replica."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serve_app.api.access import Access
from serve_app.fetching import Fetcher
from serve_app.jobs.types import Jobs
from serve_app.live import LiveService
from serve_app.models import ServedModel, ServedModels
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber

Readiness = Callable[[], Awaitable[dict[str, str]]]
"""State of each deployment by name; :data:`READY` where it can take requests."""

READY = "READY"


def is_loaded(model: ServedModel, states: Mapping[str, str]) -> bool:
    """Whether the deployment that recognizes by ``model`` can take requests."""
    return states.get(model.deployment) == READY


@dataclass(frozen=True, slots=True)
class Services:
    """Nothing in here knows a protocol."""

    settings: Settings
    access: Access
    transcriber: Transcriber
    live: LiveService
    fetcher: Fetcher
    jobs: Jobs
    speakers: SpeakerService
    readiness: Readiness

    @property
    def models(self) -> ServedModels:
        """The recognizers."""
        return self.transcriber.models
