"""A job's folder on disk and in a bucket: whose it is."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from stores.job_folder import CONFIG, SUMMARY, JobFolder
from stores.storage import Storage, Version

CONFIGURATION = {"model": "csn", "steps": 6, "set": ["dropout=0.0"], "normalizer": None, "learning_rate": 4e-4}


def test_the_same_run_may_come_again(uri: str) -> None:
    for config in (CONFIGURATION, dict(reversed(CONFIGURATION.items())), {**CONFIGURATION, "set": ("dropout=0.0",)}):
        JobFolder(uri).claim(config)
    assert json.loads(Storage(uri).read(CONFIG)) == CONFIGURATION


def test_another_run_is_told_what_differs(uri: str) -> None:
    JobFolder(uri).claim(CONFIGURATION)
    before = Storage(uri).read(CONFIG)
    with pytest.raises(ValueError, match="holds another run") as caught:
        JobFolder(uri).claim({**CONFIGURATION, "steps": 7, "seed": 3})
    words = str(caught.value)
    assert "(seed: None there, 3 now; steps: 6 there, 7 now): give another --out" in words
    assert "csn" not in words and "dropout" not in words
    assert Storage(uri).read(CONFIG) == before


def claim_in_between(folder: JobFolder, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job claims the folder after this one has found it empty."""
    publish = folder.storage.publish

    def late(name: str, data: bytes, if_version: Version | None = None) -> None:
        JobFolder(folder.storage.uri).claim(config)
        publish(name, data, if_version)

    monkeypatch.setattr(folder.storage, "publish", late)


def test_of_two_that_begin_at_once_the_second_finds_the_first(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobFolder(uri)
    claim_in_between(folder, CONFIGURATION, monkeypatch)
    folder.claim(CONFIGURATION)  # the same run: a retried job, say
    Storage(uri).remove(CONFIG)
    with pytest.raises(ValueError, match=r"steps: 6 there, 9 now"):
        folder.claim({**CONFIGURATION, "steps": 9})
    assert json.loads(Storage(uri).read(CONFIG)) == CONFIGURATION


def test_only_one_of_many_threads_gets_the_folder(tmp_path: Path) -> None:
    start, outcomes = threading.Barrier(6), []

    def claim(number: int) -> None:
        start.wait()
        try:
            JobFolder(str(tmp_path)).claim({**CONFIGURATION, "seed": number})
            outcomes.append(number)
        except ValueError:
            outcomes.append(None)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6
    winners = [number for number in outcomes if number is not None]
    assert winners == [json.loads((tmp_path / CONFIG).read_text())["seed"]]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff", b"[" * 100_000])
def test_a_config_that_is_no_runs_is_left_alone(uri: str, content: bytes) -> None:
    Storage(uri).publish(CONFIG, content)
    with pytest.raises(ValueError, match=r"config\.json is no run's: give another --out"):
        JobFolder(uri).claim(CONFIGURATION)
    assert Storage(uri).read(CONFIG) == content


def test_a_summary_says_that_the_run_has_ended(uri: str) -> None:
    folder = JobFolder(uri)
    assert folder.summary() is None
    summary = {"steps": 6, "best": {"step": 4, "mAP": None}, "quarantined": {}}
    folder.write_summary(summary)
    assert JobFolder(uri).summary() == summary


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff", b"[" * 100_000])
def test_a_summary_that_is_damaged_is_named(uri: str, content: bytes) -> None:
    Storage(uri).publish(SUMMARY, content)
    with pytest.raises(ValueError, match=r"summary\.json is damaged: remove it"):
        JobFolder(uri).summary()
