"""Where models are on this machine. Nothing here opens a network connection."""

from pathlib import Path

REQUIRED_FILES = ("config.yaml", "model.pt")
"""What every PyTorch model directory in ModelScope's layout holds."""


class ModelMissing(Exception):
    """A model directory is not there, or not whole. The message names the file and what to do."""


def find_model(reference: str, modelscope_path: Path) -> Path:
    """The absolute directory of a model.

    Args:
        reference: a directory, or a ModelScope id (``iic/…``) that has been downloaded before.
        modelscope_path: root of ModelScope's cache, under which models lie by their ids.

    Raises:
        ModelMissing: neither exists, or the directory lacks a file.
    """
    local = Path(reference).expanduser()
    cached = modelscope_path.expanduser() / reference
    # A directory wins over an id of the same name, as it does in FunASR and ModelScope.
    directory = local if local.is_dir() or local.is_absolute() else cached
    if not directory.is_dir():
        raise ModelMissing(
            f"There is no model at {local.resolve()}, and none named {reference!r} under {modelscope_path}. "
            "Give the path of a model directory, or download the model first "
            f"(`modelscope download --model {reference}`)."
        )
    for name in REQUIRED_FILES:
        if not (directory / name).is_file():
            raise ModelMissing(
                f"The model directory {directory.resolve()} has no {name}. Copy or download the model again; "
                "a directory of ModelScope's PyTorch layout is needed."
            )
    return directory.resolve()
