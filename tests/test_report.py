"""report.py as it is run; and its page in a real browser, where there is one, with pictures in artifacts/."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import find_chromium, look
from PIL import Image
from report_samples import whole
from study_folder import make_minimal

from attacks.report import main
from attacks.report_files import files_of
from pipeline.options import JOB_VARIABLE
from pipeline.summary import EXIT_INTERNAL, EXIT_OK, EXIT_USAGE

SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["report.py", *words])
    return main()


def contents(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_it_runs_as_a_file_and_is_executable(repository: Path, tmp_path: Path) -> None:
    make_minimal(tmp_path)
    script = repository / "attacks/report.py"
    assert os.access(script, os.X_OK)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, str(script), "--study", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == EXIT_OK, done.stderr
    assert "1. How does the place of fusion" in done.stdout and f"open {tmp_path}/report/report.html" in done.stdout
    assert (tmp_path / "report/report.md").is_file()


def test_twice_gives_the_same_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_minimal(tmp_path / "study")
    for out in ("one", "two"):
        assert run(monkeypatch, "--study", str(tmp_path / "study"), "--out", str(tmp_path / out)) == EXIT_OK
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert one == two and len(one) > 10


def test_another_run_does_not_read_the_report_of_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_minimal(tmp_path)
    pages = []
    for _ in range(2):
        assert run(monkeypatch, "--study", str(tmp_path)) == EXIT_OK
        pages.append((tmp_path / "report/report.html").read_bytes())
    assert pages[0] == pages[1]


def test_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--study", str(tmp_path)) == EXIT_USAGE
    assert "expected a study's folder" in capsys.readouterr().err
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    assert run(monkeypatch, "--study", "relative") == EXIT_USAGE
    assert "throw-away copy" in capsys.readouterr().err


def test_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_minimal(tmp_path / "study")
    (tmp_path / "file").write_text("in the way")
    study = str(tmp_path / "study")
    assert run(monkeypatch, "--study", study, "--out", str(tmp_path / "file")) == EXIT_USAGE
    assert "is a file" in capsys.readouterr().err
    assert run(monkeypatch, "--study", study, "--out", str(tmp_path / "file/below")) == EXIT_INTERNAL
    assert "cannot be written" in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole sample's page, alone in its folder: nothing lies beside it."""
    find_chromium()
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(files_of(whole().document)["report.html"])
    return path


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_in_a_browser(page: Path, repository: Path, tmp_path: Path, width: int, dark: bool) -> None:
    artifacts = repository / "artifacts"
    artifacts.mkdir(exist_ok=True)
    for anchor in ("", "table-1", "figure-2", "controls"):
        name = f"report-{width}-{'dark' if dark else 'light'}{f'-{anchor}' if anchor else ''}.png"
        found = look(page, artifacts / name, tmp_path, width, 1600, dark, anchor)
        assert found.console == [] and found.dark == dark
        assert found.client_width == width and found.scroll_width <= width, "the page scrolls sideways"
        image = np.asarray(Image.open(io.BytesIO((artifacts / name).read_bytes())).convert("L")).astype(int)[:, :width]
        background = np.bincount(image[:, 3]).argmax()  # of the margin: pictures are white in both
        assert (background < 60) == dark
        assert image.std() > 10, "nothing is drawn"
