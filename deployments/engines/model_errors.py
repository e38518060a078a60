"""What is wrong with a model directory. Imports nothing heavy, so that a command line stays quick."""

from pathlib import Path

COPY_AGAIN = "copy the model directory again, whole"
SAME_MODEL = "take all files of the directory from the same model"


class ModelFilesError(RuntimeError):
    """A model directory cannot be used; the message names the file, what is wrong, and the remedy."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. Remedy: {remedy}.")
        self.path = path
