"""Settings as a config has them, whatever the environment of this machine says."""

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from serve_app.settings import Settings


class WrittenSettings(Settings):
    """Of a server that is to run elsewhere, or later."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
