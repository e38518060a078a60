"""Writes the Serve configs of the overlays from the profiles in ``configs/``.

    make manifests

A profile for one machine is changed in three places, so that it serves a cluster. Serve's proxy listens on
every node, and at an address that other pods reach; and no deployment reserves nothing at all, since Ray may
put what reserves nothing on the head. Everything else, comments included, stays as it is.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROFILES = {
    "starter": "serve_config.yaml",
    "cpu": "configs/cpu.yaml",
    "gpu": "configs/multi-node.yaml",
    "gpu-80g": "configs/gpu-80g.yaml",
}
"""By overlay; those that are not here build on one that is."""

_CHANGES = (
    (re.compile(r"^proxy_location: HeadOnly$", re.MULTILINE), "proxy_location: EveryNode"),
    (re.compile(r"^(  host:) 127\.0\.0\.1$", re.MULTILINE), r"\1 0.0.0.0"),
    (re.compile(r"^( +num_cpus:) 0(?=\n(?! +num_gpus:))", re.MULTILINE), r"\1 0.1"),
)


def for_cluster(profile: str, source: str) -> str:
    """A profile as an overlay has it.

    Args:
        profile: text of the file.
        source: its path, for the first line.
    """
    for pattern, replacement in _CHANGES:
        profile = pattern.sub(replacement, profile)
    return f"# From {source}, by `make manifests`: change it there.\n#\n{profile}"


def main() -> None:
    for overlay, source in PROFILES.items():
        text = for_cluster((ROOT / source).read_text(encoding="utf-8"), source)
        (ROOT / "k8s" / "overlays" / overlay / "serve_config.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
