"""How values are written for people: sizes, and strangers' words on one line without control characters."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit


def size_text(count: float) -> str:
    """Bytes in powers of ten: `0 B`, `52.7 kB`, `1.2 TB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def one_line(text: str) -> str:
    """The text with everything that could move a terminal's cursor or colour it written as an escape."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in words)


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c and 12 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def without_password(uri: str) -> str:
    """A URI without its user and password; a plain path as it is."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1])) if parts.scheme else uri
