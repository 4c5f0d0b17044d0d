"""The list of classes: which label id (AudioSet's mid) stands at which index."""

from __future__ import annotations

import csv
import difflib
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# AudioSet's own list, shipped as it was published (docs/THIRD_PARTY.md).
SHIPPED_LIST = Path(__file__).with_name("class_labels_indices.csv")
HEADER = ["index", "mid", "display_name"]
MAX_CLASSES = 32_767  # label indices are stored as int16
MAX_FILE_BYTES = 16 << 20


class ClassListError(ValueError):
    """A class list that cannot be used; the text names file, line, what came, what was expected and the remedy."""


@dataclass(frozen=True)
class ClassList:
    """Label ids and display names, both in index order (index i is class i, counted from 0)."""

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mids)

    @cached_property
    def indices(self) -> dict[str, int]:
        """The index of every mid."""
        return {mid: index for index, mid in enumerate(self.mids)}

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the mids in order, one a line: what decides the label indices. Display names do not."""
        return hashlib.sha256("".join(f"{mid}\n" for mid in self.mids).encode()).hexdigest()

    def resolve(self, text: str) -> str:
        """The mid of a class that is named by its mid or, in any case, its display name.

        Raises:
            ClassListError: no such class: the message names those that are near.
        """
        if text in self.indices:
            return text
        folded = [name.lower() for name in self.names]
        found = [mid for mid, name in zip(self.mids, folded, strict=True) if name == text.lower()]
        if len(found) == 1:
            return found[0]
        near = found or difflib.get_close_matches(text.lower(), folded, 3, 0.5)
        hint = f": {', '.join(near)}?" if near else ""
        raise ClassListError(f"expected a class by its mid (/m/09x0r) or its display name, got {text!r}{hint}")


def read_class_list(path: str | Path | None = None) -> ClassList:
    """Read `index,mid,display_name` rows with indices 0, 1, 2 … in order; None reads AudioSet's 527 classes.

    Raises:
        ClassListError: the file cannot be read, or a row is not what it should be (with its line).

    Source: https://research.google.com/audioset/download.html (class_labels_indices.csv).
    """
    path = SHIPPED_LIST if path is None else Path(path)
    mids: dict[str, int] = {}
    names: list[str] = []
    reader = csv.reader(_read_text(path).splitlines(), skipinitialspace=True)
    if next(reader, None) != HEADER:
        raise ClassListError(_problem(path, 1, "no header", f"the first line to be {','.join(HEADER)!r}"))
    for row in filter(None, reader):
        line = reader.line_num
        if len(row) != 3:
            raise ClassListError(_problem(path, line, f"{len(row)} fields", "three: index, mid and display name"))
        index, mid, name = row
        if index != str(len(names)) or len(names) == MAX_CLASSES:
            found = f"index {index[:40]!r}"
            raise ClassListError(_problem(path, line, found, f"indices from 0 on in order, at most {MAX_CLASSES}"))
        if not is_label_id(mid):
            expected = "1 to 64 printable ASCII characters without space, comma and quote, such as /m/09x0r"
            raise ClassListError(_problem(path, line, f"the mid {mid[:40]!r}", expected))
        if mid in mids:
            raise ClassListError(_problem(path, line, f"the mid {mid!r} again", f"it once (first on line {mids[mid]})"))
        mids[mid] = line
        names.append(name)
    if not names:
        raise ClassListError(_problem(path, 2, "the end of the file", "at least one class"))
    return ClassList(tuple(mids), tuple(names))


def is_label_id(text: str) -> bool:
    """Whether `text` can be a label id in a segment CSV: 1–64 printable ASCII characters, no space, comma or quote."""
    return 1 <= len(text) <= 64 and all("!" <= character <= "~" and character not in '",' for character in text)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ClassListError(f"{path}: more than {MAX_FILE_BYTES} bytes, which is no class list")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ClassListError(f"{path}: the class list cannot be read ({error.strerror}): check --labels") from error
    except UnicodeDecodeError as error:
        raise ClassListError(f"{path}: not UTF-8 text at byte {error.start}: save the class list as UTF-8") from error


def _problem(path: Path, line: int, found: str, expected: str) -> str:
    return (
        f"{path}, line {line}: found {found}; expected {expected}. "
        "Give AudioSet's class_labels_indices.csv or a file of its form with --labels, or leave --labels out"
    )
