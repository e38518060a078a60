"""Lists and fetches models of ModelScope through its own client, which resumes files that were cut off."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.model_caches import masked, modelscope_places
from deployments.model_record import Hub
from serve_app.model_hub.errors import DamagedDownload, HubUnreachable, ModelHubError, first_line
from serve_app.model_hub.listing import Listing, RemoteFile, needed, size_of

if TYPE_CHECKING:
    from modelscope_hub import HubApi

_REVISION = "master"
_WORKERS = 4


class ModelScopeHub:
    """https://modelscope.cn, or the mirror that ``MODELSCOPE_ENDPOINT`` or ``MODELSCOPE_DOMAIN`` names."""

    name: Hub = "modelscope"
    title = "ModelScope"

    def __init__(self, modelscope_path: Path) -> None:
        """``modelscope_path``: root of the cache, under which models lie by their ids."""
        self._root = modelscope_path.expanduser()

    def listing(self, identifier: str, revision: str | None) -> Listing:
        """What there is of a model, with its ``master`` unless ``revision`` says otherwise.

        Raises:
            HubUnreachable: it does not answer.
            ModelHubError: it has no such model, or does not give it.
        """
        from modelscope_hub.errors import HubError, NetworkError, NotExistError, ServerError

        try:
            listed = self._api(identifier).list_repo_files(
                identifier, "model", revision=revision or _REVISION
            )
        except NotExistError as error:
            raise ModelHubError(f"ModelScope has no model {identifier}.") from error
        except (NetworkError, ServerError) as error:
            raise HubUnreachable(f"ModelScope does not answer: {first_line(error)}.") from error
        except HubError as error:
            raise ModelHubError(f"ModelScope does not give {identifier}: {first_line(error)}.") from error
        # It gives no SHA-256 of empty files. Everything else without one is checked by its size alone.
        files = [RemoteFile(file.path, file.size, file.sha256 or None) for file in listed if not file.is_dir]
        return Listing(self.name, identifier, revision or _REVISION, needed(files, identifier))

    def directory(self, listing: Listing) -> Path:
        """Where the model is, in whatever layout, or else goes."""
        places = modelscope_places(listing.id, self._root)
        there = (path for path in places if path.is_dir() and any(path.iterdir()))
        return next(there, self._root / masked(listing.id))

    def fetch(self, listing: Listing, files: Sequence[RemoteFile], directory: Path) -> None:
        """Fetch these of its files into the directory.

        Raises:
            DamagedDownload: what came of one is not what it should be; the client has tried several times.
            HubUnreachable: one of them could not be fetched.
        """
        from modelscope_hub.errors import FileDownloadError, FileIntegrityError, HubError

        wanted = [{"Path": file.path, "Size": file.size, "Sha256": file.sha256} for file in files]
        try:
            self._api(listing.id).download_repo(
                listing.id,
                "model",
                revision=listing.revision,
                cache_dir=self._root,
                local_dir=directory,
                max_workers=_WORKERS,
                file_list=wanted,
            )
        except FileDownloadError as error:
            path, reason = next(iter(error.failed_files.items()))
            if isinstance(reason, FileIntegrityError):
                raise DamagedDownload(path) from error
            raise HubUnreachable(
                f"{path} of {listing.id} could not be fetched from ModelScope: {first_line(reason)}."
            ) from error
        except HubError as error:
            raise HubUnreachable(f"{listing.id} could not be fetched: {first_line(error)}.") from error

    def bytes_here(self, files: Sequence[RemoteFile], directory: Path) -> int:
        """How much of these files is on the disk, in bytes; what was begun counts too."""
        sizes = (size_of(directory / file.path) for file in files)
        begun = (size_of(directory / f"{file.path}.incomplete") for file in files)
        return sum(sizes) + sum(begun)

    def discard(self, directory: Path, file: RemoteFile) -> None:
        """Remove a file that is not what it should be."""
        (directory / file.path).unlink(missing_ok=True)
        (directory / f"{file.path}.incomplete").unlink(missing_ok=True)

    def publish(self, listing: Listing, directory: Path) -> None:
        """Make a model that is whole the one that is found; here it is found by its place."""

    def _api(self, identifier: str) -> "HubApi":
        from modelscope_hub import HubApi

        endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
        api = HubApi(endpoint=endpoint or None)
        return api if endpoint else HubApi(endpoint=_site_of(api, identifier))


def _site_of(api: "HubApi", identifier: str) -> str:
    """Its Chinese or its international site: whichever has the model."""
    from modelscope_hub.errors import HubError, NotExistError

    try:
        return str(api.resolve_endpoint_for_read(identifier, repo_type="model"))
    except NotExistError as error:
        raise ModelHubError(f"ModelScope has no model {identifier}.") from error
    except HubError as error:
        raise HubUnreachable(f"ModelScope does not answer: {first_line(error)}.") from error
