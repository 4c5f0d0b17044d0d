"""Tars: deterministic bytes, fixed stride, readable by tools that know nothing of us."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
import xxhash

from stores.shards import (
    Sample,
    member,
    npy_array,
    npy_bytes,
    npy_header,
    pack,
    unpack,
    write_feature_tar,
    write_media_tar,
)


def samples(count: int = 5) -> list[Sample]:
    rng = np.random.default_rng(0)
    # Jsons of very different lengths: the stride must not follow them.
    return [
        Sample(f"-aB_{i}_{i * 1000}", {"key": i, "words": "x" * 300 * i}, rng.normal(size=(40, 8)).astype(np.float16))
        for i in range(count)
    ]


def test_equal_content_gives_equal_bytes_and_the_name_follows_the_content(tmp_path: Path) -> None:
    first, _ = write_feature_tar(tmp_path / "a", "logmel", samples())
    second, _ = write_feature_tar(tmp_path / "b", "logmel", samples())
    other, _ = write_feature_tar(tmp_path / "c", "logmel", samples(4))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first == second != other
    assert first.sha256 == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert first.size == (tmp_path / "a").stat().st_size
    assert first.digest8 == first.sha256[:8]


def test_tarfile_reads_members_in_order_with_neutral_headers(tmp_path: Path) -> None:
    write_feature_tar(tmp_path / "a", "logmel", samples(3))
    with tarfile.open(tmp_path / "a") as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == [
        f"-aB_{i}_{i * 1000}.{kind}" for i in range(3) for kind in ("json", "logmel.npy")
    ]
    for info in infos:
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.pax_headers) == (0, 0, 0, "", "", {})


def test_places_are_where_tarfile_finds_them_and_checksums_are_of_those_bytes(tmp_path: Path) -> None:
    made = samples()
    _, places = write_feature_tar(tmp_path / "a", "logmel", made)
    data = (tmp_path / "a").read_bytes()
    with tarfile.open(tmp_path / "a") as archive:
        infos = {info.name: info for info in archive.getmembers()}
    for sample, place in zip(made, places, strict=True):
        assert infos[f"{sample.key}.json"].offset == place.sample_offset
        assert (infos[f"{sample.key}.json"].offset_data, infos[f"{sample.key}.json"].size) == (
            place.json_offset,
            place.json_bytes,
        )
        array = infos[f"{sample.key}.logmel.npy"]
        assert (array.offset_data, array.size) == (place.array_offset, place.array_bytes)
        raw = data[place.sample_offset : place.sample_offset + place.sample_bytes]
        assert place.sample_xxh3 == xxhash.xxh3_64(raw).hexdigest()
        np.testing.assert_array_equal(np.load(io.BytesIO(data[array.offset_data :][: array.size])), sample.array)
        assert json.loads(data[place.json_offset :][: place.json_bytes]) == sample.meta


def test_a_memory_map_of_n_strides_is_one_strided_array(tmp_path: Path) -> None:
    made = samples()
    _, places = write_feature_tar(tmp_path / "a", "logmel", made)
    stride = places[0].sample_bytes
    assert {place.sample_bytes for place in places} == {stride}
    assert stride % 512 == 0
    raw = np.memmap(tmp_path / "a", np.uint8, "r")[: len(made) * stride].reshape(len(made), stride)
    start = places[0].array_offset + places[0].array_bytes - made[0].array.nbytes
    arrays = np.ascontiguousarray(raw[:, start : start + made[0].array.nbytes]).view(np.float16).reshape(-1, 40, 8)
    np.testing.assert_array_equal(arrays, np.stack([sample.array for sample in made]))


def test_webdataset_reads_it_with_nothing_of_ours(tmp_path: Path) -> None:
    made = samples()
    write_feature_tar(tmp_path / "a.tar", "logmel", made)
    found = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode())
    assert [item["__key__"] for item in found] == [sample.key for sample in made]
    for item, sample in zip(found, made, strict=True):
        np.testing.assert_array_equal(item["logmel.npy"], sample.array)
        assert item["json"] == sample.meta


def test_arrays_of_two_shapes_or_none_at_all_are_refused(tmp_path: Path) -> None:
    mixed = [*samples(1), Sample("k", {}, np.zeros((3, 8), np.float16))]
    for bad in (mixed, []):
        with pytest.raises(ValueError, match="one shape and dtype"):
            write_feature_tar(tmp_path / "a", "logmel", bad)


def test_media_offsets_point_at_the_bytes(tmp_path: Path) -> None:
    members = [("a_0.json", b"{}"), ("a_0.mp4", b"\x00" * 700), ("b_0.mp4", b"tail")]
    facts, offsets = write_media_tar(tmp_path / "m", iter(members))
    data = (tmp_path / "m").read_bytes()
    assert facts.size == len(data)
    for name, content in members:
        assert data[offsets[name] : offsets[name] + len(content)] == content


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../b", "x" * 101])
def test_member_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="member name"):
        member(name, b"")


@pytest.mark.parametrize(("found", "changed"), [(b"(3,)", b"(3,("), (b"(3,)", b"([],"), (b"'<i8'", b"[1,2]")])
def test_damaged_headers_are_value_errors_too(found: bytes, changed: bytes) -> None:
    data = npy_bytes(np.arange(3))
    assert found in data
    with pytest.raises(ValueError):
        npy_array(data.replace(found, changed))


def test_small_tars_round_trip_and_pickles_are_refused() -> None:
    assert list(unpack(pack([("a", b"1"), ("b", b"")]))) == [("a", b"1"), ("b", b"")]
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="[Pp]ickle|Object arrays"):
        npy_array(buffer.getvalue())
    np.testing.assert_array_equal(npy_array(npy_bytes(np.arange(3))), np.arange(3))


@pytest.mark.parametrize("shape", [(3,), (400, 64), (10, 512)])
@pytest.mark.parametrize("dtype", ["<f2", "float32", "int16"])
def test_headers_are_those_that_are_written(shape: tuple[int, ...], dtype: str) -> None:
    data = npy_bytes(np.zeros(shape, dtype))
    assert data.startswith(npy_header(shape, dtype))
    assert len(data) - len(npy_header(shape, dtype)) == np.zeros(shape, dtype).nbytes
