"""Lists and fetches models of Hugging Face through its own client, which resumes files that were cut off.

The client compares sizes only; whoever calls compares the content with the listing.
"""

import glob
import os
import time
from collections.abc import Sequence
from pathlib import Path

from deployments.model_caches import hugging_face_cache, hugging_face_repository
from deployments.model_record import Hub
from serve_app.model_hub.errors import HubUnreachable, ModelHubError, first_line
from serve_app.model_hub.listing import Listing, RemoteFile, needed, size_of

_REVISION = "main"
_WORKERS = 4
_ATTEMPTS = 4
_PAUSE_SEC = 1.0
"""Doubled before each further attempt."""


class HuggingFaceHub:
    """https://huggingface.co, or the mirror that ``HF_ENDPOINT`` names."""

    name: Hub = "huggingface"
    title = "Hugging Face"

    def __init__(self, local_dir: Path | None = None) -> None:
        """``local_dir``: where files go by their names; not given: into the cache."""
        self._local_dir = local_dir

    def listing(self, identifier: str, revision: str | None) -> Listing:
        """What there is of a model, with its ``main`` unless ``revision`` says otherwise.

        Raises:
            HubUnreachable: it does not answer.
            ModelHubError: it has no such model, or does not give it.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
        )

        try:
            info = HfApi(endpoint=_endpoint()).model_info(
                identifier, revision=revision or _REVISION, files_metadata=True
            )
        except RepositoryNotFoundError as error:
            raise ModelHubError(
                f"Hugging Face has no model {identifier}, or gives it to nobody without HF_TOKEN."
            ) from error
        except OfflineModeIsEnabled as error:
            raise ModelHubError("HF_HUB_OFFLINE is set, so nothing is fetched from Hugging Face.") from error
        except (HfHubHTTPError, HFValidationError) as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            kind = HubUnreachable if status >= 500 else ModelHubError
            raise kind(f"Hugging Face does not give {identifier}: {first_line(error)}.") from error
        except _failures() as error:
            raise HubUnreachable(f"Hugging Face does not answer: {first_line(error)}.") from error
        files = [
            RemoteFile(
                sibling.rfilename,
                (sibling.lfs.size if sibling.lfs else sibling.size) or 0,
                sibling.lfs.sha256 if sibling.lfs else None,
                None if sibling.lfs else sibling.blob_id,
            )
            for sibling in info.siblings or ()
        ]
        return Listing(self.name, identifier, info.sha or "", needed(files, identifier))

    def directory(self, listing: Listing) -> Path:
        """The snapshot of its revision."""
        if self._local_dir is not None:
            return self._local_dir
        return hugging_face_repository(listing.id) / "snapshots" / listing.revision

    def fetch(self, listing: Listing, files: Sequence[RemoteFile], directory: Path) -> None:
        """Fetch these of its files into the directory.

        Raises:
            HubUnreachable: one of them could not be fetched.
        """
        from huggingface_hub import snapshot_download

        for file in files:
            # The client takes what is there for what it should be.
            self.discard(directory, file)
        for attempt in range(_ATTEMPTS):
            try:
                snapshot_download(
                    listing.id,
                    revision=listing.revision,
                    cache_dir=hugging_face_cache(),
                    local_dir=self._local_dir,
                    allow_patterns=[glob.escape(file.path) for file in files],
                    endpoint=_endpoint(),
                    max_workers=_WORKERS,
                )
                return
            except _failures() as error:
                # Errors of this machine, such as a full disk, have a number; those of the network have none.
                if getattr(error, "errno", None) is not None or attempt == _ATTEMPTS - 1:
                    raise HubUnreachable(
                        f"{listing.id} could not be fetched from Hugging Face: {first_line(error)}."
                    ) from error
            time.sleep(_PAUSE_SEC * 2**attempt)

    def bytes_here(self, files: Sequence[RemoteFile], directory: Path) -> int:
        """How much of these files is on the disk, in bytes; what was begun counts too."""
        if self._local_dir is not None:
            begun = (self._local_dir / ".cache" / "huggingface" / "download").rglob("*.incomplete")
            return sum(size_of(directory / file.path) for file in files) + sum(map(size_of, begun))
        blobs = directory.parents[1] / "blobs"
        names = [file.sha256 or file.git_id or "" for file in files]
        return sum(size_of(blobs / name) or size_of(blobs / f"{name}.incomplete") for name in names if name)

    def discard(self, directory: Path, file: RemoteFile) -> None:
        """Remove a file that is not what it should be, and what its name in the snapshot points to."""
        path = directory / file.path
        if path.is_symlink():
            blob = path.resolve()
            if blob.is_relative_to(hugging_face_repository_of(directory)):
                blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def publish(self, listing: Listing, directory: Path) -> None:
        """Make a model that is whole the one that is found: what ``main`` is on this machine."""
        if self._local_dir is None:
            reference = hugging_face_repository(listing.id) / "refs" / _REVISION
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(listing.revision, encoding="utf-8")


def hugging_face_repository_of(snapshot: Path) -> Path:
    """The directory in the cache to which a snapshot belongs."""
    return snapshot.parents[1].resolve()


def _failures() -> tuple[type[Exception], ...]:
    """What the client raises when it cannot reach its hub; its later versions speak through another library,
    whose errors are those of HTTP that its own are derived from."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    of_http: type[Exception] = HfHubHTTPError.__mro__[1]
    return OSError, LocalEntryNotFoundError, of_http


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None
