"""The server's own list of hotwords, which goes with those of every client.

The format is that of ``--hotword`` of FunASR's servers: a word on each line, and behind it its weight.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from deployments.messages import Hotword
from serve_app.pipeline.finishing import ARROW
from serve_app.pipeline.hotwords import checked, merged, weight_of

logger = logging.getLogger("ray.serve")

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_COMMENT = re.compile(r"(?:^|\s)#")
_MOST_BYTES = 1 << 20


class HotwordsFileError(ValueError):
    """The file cannot be used; the message is a sentence that names it, and the line."""


def read_hotwords(path: Path) -> tuple[Hotword, ...]:
    """Read a list: ``word`` or ``word weight`` on each line, in UTF-8, and comments behind ``#``. A word may
    hold spaces; one that ends with a number needs its weight behind that.

    Raises:
        HotwordsFileError: there is none, or it holds something else.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise HotwordsFileError(f"The hotwords file {path} is larger than {_MOST_BYTES >> 20} MiB.")
        data = path.read_bytes()
    except OSError as error:
        raise HotwordsFileError(
            f"The hotwords file {path} cannot be read: {error.strerror or error}."
        ) from error
    words: list[Hotword] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            words += _word(line.decode())
        except ValueError as error:
            what = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise HotwordsFileError(f"Line {number} of the hotwords file {path} is wrong: {what}.") from error
    try:
        return checked(words)
    except ValueError as error:
        raise HotwordsFileError(f"The hotwords file {path} is wrong: {error}.") from error


def _word(line: str) -> tuple[Hotword, ...]:
    *head, last = _COMMENT.split(line, maxsplit=1)[0].split() or [""]
    if head and _NUMBER.fullmatch(last):
        text = " ".join(head)
        return checked([Hotword(text, weight_of(last, text))])
    if ARROW in line:
        raise ValueError("it is a correction, which only clients can ask for")
    return checked([Hotword(" ".join((*head, last)))])


class ServerHotwords:
    """The list as it is now: a file that has changed is read again, and if it cannot be, what was read before
    stays."""

    def __init__(self, path: Path | None) -> None:
        """``None``: there is none.

        Raises:
            HotwordsFileError: it cannot be used.
        """
        self._path = path
        self._seen = self._state()
        self._words = () if path is None else read_hotwords(path)

    @property
    def words(self) -> tuple[Hotword, ...]:
        """The list as it is now."""
        state = self._state()
        if self._path is not None and state != self._seen:
            self._seen = state
            try:
                self._words = read_hotwords(self._path)
            except HotwordsFileError as error:
                logger.warning("the hotwords stay as they were: %s", error)
        return self._words

    def merged(self, asked: Iterable[Hotword]) -> tuple[Hotword, ...]:
        """``asked``, then the server's words; the weight of ``asked`` counts for a word that is in both."""
        words = self.words
        return merged(asked, words) if words else tuple(asked)

    def _state(self) -> tuple[int, int, int] | None:
        """What differs when the file has changed."""
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
