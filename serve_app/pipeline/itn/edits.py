"""A change to a text, by the characters that it replaces."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters ``begin`` to ``end`` (exclusive) of a text become ``text``; edits never overlap."""

    begin: int
    end: int
    text: str

    def moved(self, by: int) -> "Edit":
        return Edit(self.begin + by, self.end + by, self.text)
