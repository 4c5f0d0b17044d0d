"""URL templates: `https://host/{ytid}.mp4` and a segment make a URL."""

from __future__ import annotations

import string
from urllib.parse import quote, urlsplit

from pipeline.segments import Segment

FIELDS = ("ytid", "start_ms", "end_ms", "start_s", "end_s", "key")


class UrlTemplate:
    """An http or https URL with fields of a segment in it.

    Attributes:
        names_segment: whether the URL says which segment is meant, so that the file may be its clip already.

    Raises:
        ValueError: another scheme, unknown fields, or none that says which video is meant.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        example = "for example http:https://host/videos/{ytid}.mp4"
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"URL template {text!r}: {error}; expected something like {example}") from error
        names = [name for _, name, _, _ in parts if name is not None]
        unknown = sorted({name for name in names if name not in FIELDS})
        if unknown or any(form or conversion for _, _, form, conversion in parts):
            what = f"unknown fields {', '.join(map(repr, unknown))}" if unknown else "a field with a format"
            raise ValueError(
                f"URL template {text!r} has {what}; it may hold {' '.join(f'{{{name}}}' for name in FIELDS)}"
            )
        if not {"ytid", "key"} & set(names):
            raise ValueError(f"URL template {text!r} names no video: put {{ytid}} or {{key}} into it, {example}")
        address = urlsplit(text)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"URL template {text!r} is not an http or https URL; expected something like {example}")
        self.names_segment = bool(set(names) - {"ytid"})

    def url(self, segment: Segment) -> str:
        """The segment's URL; values are quoted, so that an id cannot change the path."""
        values = {
            "ytid": segment.ytid,
            "start_ms": str(segment.start_ms),
            "end_ms": str(segment.end_ms),
            "start_s": _seconds(segment.start_ms),
            "end_s": _seconds(segment.end_ms),
            "key": segment.key,
        }
        return self.text.format(**{name: quote(value, safe="") for name, value in values.items()})


def _seconds(milliseconds: int) -> str:
    """Without trailing zeros: 30000 is `30`, 30500 `30.5`."""
    whole, rest = divmod(milliseconds, 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
