"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from calm_ingest import CalmIngest, ingest_calmly
from ray_cluster import Cluster, cluster
from small_clips import SmallClips, make_small_clips

if TYPE_CHECKING:
    from demo_runs import DemoRuns

    from pipeline.decode_process import DecodeOptions
    from pipeline.decoder import Decoder

# Tests share their cores with each other: threads that compute on small inputs spin, and gain nothing. Read when torch
# is imported, which nothing above does; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """AudioSet's own files and 24 real clips; skips where they are not laid beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs AudioSet's files and the real clips in {folder}")
    return folder


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    """One Ray for the session: a head and a second node with one CPU each. Tests that kill nodes start their own."""
    with cluster(1, 1) as running:
        yield running


@pytest.fixture(scope="session")
def small_clips(tmp_path_factory: pytest.TempPathFactory) -> SmallClips:
    """Twelve short clips with a list in AudioSet's form, made once."""
    return make_small_clips(tmp_path_factory.mktemp("clips"), 12)


@pytest.fixture(params=["disk", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on disk, and one that is no disk."""
    if request.param == "disk":
        yield str(tmp_path / "run")
        return
    import fsspec

    root = f"memory://{uuid.uuid4().hex}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Small inputs gain nothing from threads, which spin where the tests share their cores."""
    from training_runs import one_thread

    with one_thread():
        yield


@pytest.fixture(scope="session")
def calm_ingest(two_nodes: Cluster, small_clips: SmallClips, tmp_path_factory: pytest.TempPathFactory) -> CalmIngest:
    """An ingest on two nodes that nobody disturbed; its store is not to be changed."""
    return ingest_calmly(two_nodes, small_clips, tmp_path_factory.mktemp("calm") / "store")


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory: pytest.TempPathFactory) -> DemoRuns:
    """The demo's store, which takes minutes to make: for slow tests only."""
    from demo_runs import DemoRuns

    return DemoRuns(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def shard_media(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The media of `shard_bench`, encoded once."""
    from shard_bench import make_media

    return make_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[DecodeOptions, Decoder]]:
    """Decoders by their options, made as they are asked for."""
    made: dict[DecodeOptions, Decoder] = {}
    yield made
    for decoder in made.values():
        decoder.close()
