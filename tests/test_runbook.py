"""What the runbook quotes is what the service says, and what leads to it arrives."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import ray.serve

from tests.conftest import ROOT

DOCUMENTS = [ROOT / "docs" / "runbook.md", ROOT / "docs" / "upgrade.md"]

_SOURCES = [ROOT / "serve_app", ROOT / "deployments"]
_OF_RAY = Path(ray.serve.__file__).parent / "_private" / "deployment_state.py"
_VALUE = "…"


def quotes(document: Path) -> list[str]:
    """Each paragraph of a block quote."""
    lines = re.findall(r"^> ?(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [line for line in lines if line]


@cache
def sayings() -> tuple[str, ...]:
    """All texts of the service, with … in place of values that are filled in."""
    files = [path for folder in _SOURCES for path in folder.rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in [*files, _OF_RAY]]
    return tuple(said for tree in trees for node in ast.walk(tree) if (said := _text(node)) is not None)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        parts = [_text(part) for part in node.values]
        return "".join(_VALUE if part is None else part for part in parts)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Colors of the terminal are none of what is said.
        return re.sub(r"\[/?[a-z ]*\]", "", node.value)
    return None


def is_said(quote: str) -> bool:
    """Whether some text holds the parts of ``quote`` in their order. A quote may be of several texts that are
    put together, sentence by sentence."""
    return any(_holds(said, quote) for said in sayings()) or _in_parts(quote)


def _holds(said: str, quote: str) -> bool:
    parts = [re.escape(part.strip(" .")) for part in quote.split(_VALUE) if part.strip(" .")]
    return bool(parts) and re.search(".*".join(parts), said, re.DOTALL) is not None


def _in_parts(quote: str) -> bool:
    sentences = [part for part in re.split(r"(?<=[.:…]) (?=[A-Z])", quote) if len(part) > 3]
    return len(sentences) > 1 and all(
        any(_holds(said, sentence) for said in sayings()) for sentence in sentences
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_messages_that_are_quoted_are_said(document: Path) -> None:
    found = quotes(document)
    assert found
    assert [quote for quote in found if not is_said(quote)] == []


def test_a_message_that_nobody_says_is_found_out() -> None:
    assert is_said("The … model is not available; see the server's log.")
    assert not is_said("The … model is not available; see the manual.")
    assert not is_said("… is on fire.")


def anchors(document: Path) -> set[str]:
    """What may stand behind ``#`` in a link to the document, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str, str]]:
    """Each link to one of the documents or within them: where it stands, its target and its anchor."""
    found: list[tuple[str, str, str]] = []
    for path in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("README*.md")]:
        for target, anchor in re.findall(
            r"\]\((?:docs/)?([\w\-]*(?:\.md)?)#([\w\-]+)\)", path.read_text("utf-8")
        ):
            target = target or path.name
            if target in {document.name for document in DOCUMENTS} or path in DOCUMENTS:
                found.append((path.name, target, anchor))
    return found


def test_links_to_sections_arrive() -> None:
    found = links()
    assert len(found) > 5
    lost = [link for link in found if link[2] not in anchors(_document(link[1]))]
    assert lost == []


def _document(name: str) -> Path:
    return ROOT / name if name.startswith("README") else ROOT / "docs" / name


def test_every_section_says_what_is_seen_why_and_what_to_do() -> None:
    _, *sections = re.split(r"^## ", DOCUMENTS[0].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(sections) > 15
    for section in sections:
        marks = [section.find(f"*{mark}:*") for mark in ("Seen", "Why", "Do")]
        assert -1 < marks[0] < marks[1] < marks[2], section.splitlines()[0]
