"""A report's files.

report.html            one page with everything in it
report.md              the same as Markdown, with figures/
tables/<name>.csv      each table; tables/numbers.csv: every scored condition at full precision
figures/<name>.svg     or .png
report.json            which files the report is, with their sha256
"""

from __future__ import annotations

import hashlib
import json

from attacks.document import Document
from attacks.page import page_of
from attacks.report_markdown import csv_bytes, csv_of, markdown_of
from stores.storage import Storage

LIST = "report.json"


def files_of(document: Document) -> dict[str, bytes]:
    """Every file by its name; equal documents give equal bytes."""
    found = {f"tables/{table.name}.csv": csv_of(table, document.sources) for table in document.tables()}
    found["tables/numbers.csv"] = csv_bytes(document.numbers)
    found |= {f"figures/{picture.name}.{picture.kind}": picture.data for picture in document.pictures()}
    return {**found, "report.md": markdown_of(document).encode(), "report.html": page_of(document).encode()}


def write_report(document: Document, storage: Storage) -> list[str]:
    """Writes all files, and removes those that an earlier report has left and this one has not. Gives their names.

    Raises:
        StorageError: the folder cannot be written.
    """
    files = files_of(document)
    for name in _earlier(storage):
        if name not in files:
            storage.remove(name)
    for name, data in files.items():
        storage.publish(name, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    storage.publish(LIST, json.dumps({"files": digests}, indent=2, sort_keys=True).encode())
    return list(files)


def _earlier(storage: Storage) -> list[str]:
    """What the report that is there consists of; only names that a report can have, whatever the file says."""
    data, _ = storage.read_versioned(LIST)
    try:
        names = list(json.loads(data or b"{}").get("files", ()))
    except (ValueError, AttributeError, TypeError):
        return []
    parts = [(name, str(name).split("/")) for name in names]
    return [name for name, (*folders, last) in parts if folders in (["tables"], ["figures"]) and last.strip(".")]
