"""How files of pages are served."""

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By the end of their names; other files are not served."""


def page_headers(connects_to: str) -> dict[str, str]:
    """Headers of a page and its files; its scripts may talk to ``connects_to``, in the words of a
    Content-Security-Policy."""
    return {
        "Content-Security-Policy": (
            f"default-src 'self'; connect-src {connects_to}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
        ),
        "Permissions-Policy": "microphone=(self)",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        # A file keeps its name when the service is updated: browsers ask each time, mostly for a 304.
        "Cache-Control": "no-cache",
    }
