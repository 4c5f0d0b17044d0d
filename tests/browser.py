"""Drives a Chromium by its command line, where there is one: the variable CHROMIUM, or one on PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
LEAST_WIDTH = 500  # of a window of Chromium's; narrower pages are shown in a frame


@dataclass(frozen=True)
class Looked:
    """What a page looked like: its console's lines but for ours, and its measures in CSS pixels."""

    console: list[str]
    scroll_width: int
    client_width: int
    dark: bool


def find_chromium() -> str:
    """Its path; skips the test where there is none."""
    named = os.environ.get("CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if not found:
        pytest.skip("no Chromium: name one in the environment variable CHROMIUM, or put it on PATH")
    return found


def look(page: Path, screenshot: Path, work: Path, width: int, height: int, dark: bool, anchor: str = "") -> Looked:
    """Opens a page from disk, in a frame of that width, and takes a picture of it.

    Args:
        work: folder for Chromium's profile and for the page that holds the frame.
        anchor: id of what is scrolled to.
    """
    chromium = find_chromium()
    scroll = f"f.contentDocument.getElementById('{anchor}').scrollIntoView();" if anchor else ""
    holder = work / f"frame-{screenshot.stem}.html"
    holder.write_text(
        f'<body style="margin:0"><iframe id="f" src="{page.as_uri()}" '
        f'style="border:0;width:{width}px;height:{height}px"></iframe>'
        "<script>onload = () => { const d = f.contentDocument;"
        "console.log(`measured ${Math.max(d.documentElement.scrollWidth, d.body.scrollWidth)} "
        "${d.documentElement.clientWidth} ${f.contentWindow.matchMedia('(prefers-color-scheme: dark)').matches}`);"
        f"{scroll} }}</script>"
    )
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
        *("--allow-file-access-from-files", f"--user-data-dir={work / 'profile'}", "--virtual-time-budget=3000"),
        *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={screenshot}"),
        *(f"--window-size={max(width, LEAST_WIDTH)},{height}", holder.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = re.findall(r"CONSOLE:\d+\] (.*)", done.stderr)
    (measured,) = [line for line in lines if line.startswith('"measured ')]
    wide, client, is_dark = measured.split('"')[1].split()[1:]
    return Looked([line for line in lines if line != measured], int(wide), int(client), is_dark == "true")
