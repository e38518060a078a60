"""Speakers of a connection, for those who ask for them by the name of a model."""

from collections.abc import Mapping

from serve_app.api.realtime.config import Config
from serve_app.api.realtime.errors import Mistake
from serve_app.errors import InvalidParameter
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Speaker
from serve_app.speakers.service import SpeakerService


class Speakers:
    """How one client's speakers are told apart. ``owner`` is its id."""

    def __init__(self, service: SpeakerService, owner: str) -> None:
        self._service = service
        self._owner = owner
        self.options: SpeakerOptions | None = None

    async def ask(self, config: Config, names: Mapping[str, str]) -> None:
        """Set :attr:`options` once they are asked for: they stay for as long as the connection does.

        Raises:
            Mistake: this server cannot tell speakers apart.
        """
        if not config.diarizes or self.options is not None:
            return
        param = f"{names['transcription']}.model"
        try:
            self.options = await self._service.options(self._owner, wanted=True, shown=True, param=param)
        except InvalidParameter as error:
            raise Mistake(error.message, error.param) from error


def spelled(speaker: Speaker) -> str:
    """As in ``diarized_json``: by name, or by letter."""
    return speaker.name or speaker.letter
