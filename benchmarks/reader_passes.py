"""One reader of `benchmarks/reader.py` in a process of its own: a pass over the data whenever it is told to.

    python benchmarks/reader_passes.py METHOD FOLDER

For each line on standard input it reads all samples once as collated batches of 64 with keys and labels, and prints a
line of JSON: seconds (wall and processor), and what it read. `prepare-…` methods make a peer's own format. It runs with
this project's Python or with that of the peers' environment, so each method imports what it needs by itself.
"""

from __future__ import annotations

import glob
import io
import json
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
Pass = Callable[[], dict[str, int]]


def main(method: str, folder: str) -> None:
    """Runs one method until standard input ends."""
    if method.startswith("prepare-"):
        PREPARATIONS[method](Path(folder))
        return
    run = METHODS[method](Path(folder))
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), _processor_seconds()
        read = run()
        figures = {"seconds": time.perf_counter() - wall, "cpu_seconds": _processor_seconds() - processor, **read}
        print(json.dumps(figures), flush=True)


def cat(folder: Path) -> Pass:
    """The floor: the same tars that avlens reads, to nowhere."""
    tars = sorted(glob.glob(str(folder / "store/features/*/*/*.tar")))
    size = sum(Path(tar).stat().st_size for tar in tars)

    def run() -> dict[str, int]:
        subprocess.run(["cat", *tars], stdout=subprocess.DEVNULL, check=True)
        return {"bytes": size}

    return run


def avlens(order: str, workers: int, folder: Path) -> Pass:
    """This project's reader; the first pass verifies every shard, later ones need not."""
    from stores.reader import Reader
    from stores.snapshot import Snapshot

    snapshot = Snapshot.open(str(folder / "store"), "bench", ["logmel", "r2plus1d_34"])
    reader = Reader(snapshot, order=order, batch_size=BATCH, epochs=1, workers=workers)

    def run() -> dict[str, int]:
        samples = labels = 0
        for batch in reader:
            assert batch.arrays["logmel"].shape == (len(batch), 400, 64)
            samples, labels = samples + len(batch.keys), labels + len(batch.labels)
        return {"samples": samples, "labels": labels}

    return run


def webdataset(shuffle: bool, folder: Path) -> Pass:
    """WebDataset's own reading and decoding, and a plain loop that collates."""
    import webdataset as wds

    tars = sorted(glob.glob(str(folder / "tars/*.tar")))

    def samples() -> Iterator[tuple[Any, ...]]:
        dataset = wds.WebDataset(tars, shardshuffle=100 if shuffle else False)
        for sample in (dataset.shuffle(1000) if shuffle else dataset).decode():
            yield sample["__key__"], sample["logmel.npy"], sample["video.npy"], sample["json"]["labels"]

    return lambda: _collate(samples())


def litdata(shuffle: bool, folder: Path) -> Pass:
    """LitData's streaming dataset over its own chunks, in this process."""
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(folder / "litdata"), shuffle=shuffle)

    def samples() -> Iterator[tuple[Any, ...]]:
        for sample in dataset:
            yield sample["key"], sample["logmel"], sample["video"], sample["labels"]

    return lambda: _collate(samples())


def mosaicml(shuffle: bool, folder: Path) -> Pass:
    """MosaicML's streaming dataset over its own shards, in this process."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder / "mosaicml"), shuffle=shuffle, batch_size=BATCH)

    def samples() -> Iterator[tuple[Any, ...]]:
        for sample in dataset:
            yield sample["key"], sample["logmel"], sample["video"], sample["labels"]

    return lambda: _collate(samples())


def prepare_litdata(folder: Path) -> None:
    """The tars' samples as LitData chunks of 64 MB; labels as an array, so that nothing has to be parsed."""
    from litdata import optimize

    tars = sorted(glob.glob(str(folder / "tars/*.tar")))
    optimize(fn=tar_samples, inputs=tars, output_dir=str(folder / "litdata"), chunk_bytes="64MB", num_workers=1)


def prepare_mosaicml(folder: Path) -> None:
    """The tars' samples as MosaicML shards."""
    from streaming import MDSWriter

    columns = {"key": "str", "logmel": "ndarray:float16:400,64", "video": "ndarray:float16:10,512"}
    with MDSWriter(out=str(folder / "mosaicml"), columns={**columns, "labels": "ndarray:int16"}) as writer:
        for tar in sorted(glob.glob(str(folder / "tars/*.tar"))):
            for sample in tar_samples(tar):
                writer.write(sample)


def tar_samples(tar: str) -> Iterator[dict[str, Any]]:
    """The samples of one WebDataset tar."""
    with tarfile.open(tar) as archive:
        sample: dict[str, Any] = {}
        for info in archive:
            key, _, kind = info.name.partition(".")
            file = archive.extractfile(info)
            assert file is not None
            if kind == "json":
                sample = {"key": key, "labels": np.array(json.load(file)["labels"], np.int16)}
            else:
                sample[kind.removesuffix(".npy")] = np.load(io.BytesIO(file.read()))
            if len(sample) == 4:
                yield sample


def _collate(samples: Iterable[tuple[Any, ...]]) -> dict[str, int]:
    count = labels = 0
    rows: list[tuple[Any, ...]] = []

    def collate() -> int:
        keys, logmels, videos, classes = zip(*rows, strict=True)
        assert np.stack(logmels).shape == (len(keys), 400, 64) and np.stack(videos).shape == (len(keys), 10, 512)
        rows.clear()
        return sum(map(len, classes))

    for sample in samples:
        count += 1
        rows.append(sample)
        if len(rows) == BATCH:
            labels += collate()
    labels += collate() if rows else 0
    return {"samples": count, "labels": labels}


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


METHODS: dict[str, Callable[[Path], Pass]] = {
    "cat": cat,
    "avlens": partial(avlens, "sequential", 0),
    "avlens-2-threads": partial(avlens, "sequential", 2),
    "avlens-uniform": partial(avlens, "uniform", 0),
    "avlens-uniform-2-threads": partial(avlens, "uniform", 2),
    "webdataset": partial(webdataset, False),
    "webdataset-shuffled": partial(webdataset, True),
    "litdata": partial(litdata, False),
    "litdata-shuffled": partial(litdata, True),
    "mosaicml": partial(mosaicml, False),
    "mosaicml-shuffled": partial(mosaicml, True),
}
PREPARATIONS = {"prepare-litdata": prepare_litdata, "prepare-mosaicml": prepare_mosaicml}

if __name__ == "__main__":
    main(*sys.argv[1:])
