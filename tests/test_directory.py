"""Folders of files: which file is a segment's, where it starts in it, and what is never taken."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import av
import pytest
from media_factory import Audio, Video, write_media

from pipeline.clip import FetchOptions
from pipeline.directory import DirectoryFetcher, names_start
from pipeline.failures import Cause, FetchFailure
from pipeline.segments import Segment

ID = "-a_B1xY_2zQ"


def segment(ytid: str = ID, start_ms: int = 30_000, end_ms: int = 40_000) -> Segment:
    return Segment(f"{ytid}_{start_ms}", ytid, start_ms, end_ms, (), ())


def fetcher(folder: Path, **options: bool | int) -> DirectoryFetcher:
    return DirectoryFetcher(folder, FetchOptions(**options))


def found(folder: Path, wanted: Segment) -> tuple[str, int | None]:
    clip = fetcher(folder).fetch(wanted)
    assert clip.path is not None
    return Path(clip.path).name, clip.media_start_ms


@pytest.mark.parametrize(
    ("name", "start_ms"),
    [
        (f"{ID}.mp4", None),
        (f"{ID}.f18.webm", None),
        (f"Y{ID}.wav", None),
        (f"{ID}_30000.mp4", 0),
        (f"{ID}_30000_40000.mkv", 0),
        (f"{ID}_30.mp4", 0),
        (f"{ID}_30.3gp", 0),
        (f"{ID}_30_40.mp4", 0),
        (f"{ID}_000030.MP4", 0),
        (f"{ID}_30.000_40.000.flac", 0),
        (f"{ID}_30.0.opus", 0),
        (f"Y{ID}_30.000_40.000.wav", 0),
    ],
)
def test_names(tmp_path: Path, name: str, start_ms: int | None) -> None:
    (tmp_path / name).write_bytes(b"media")
    clip = fetcher(tmp_path).fetch(segment())
    assert clip.path == str(tmp_path / name)
    assert clip.media_start_ms == start_ms
    assert clip.extension == name.rpartition(".")[2].lower()
    assert (clip.data, clip.size, clip.traffic, clip.requests, clip.origin) == (None, 5, 0, 0, "dir")
    assert clip.sha256 == hashlib.sha256(b"media").hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        f"{ID}.json",
        f"{ID}.info.json",
        f"{ID}.mp4.part",
        f"{ID}.jpg",
        f"{ID}.csv",
        f"{ID}.txt",
        ID,
        f".{ID}.mp4",
        f"{ID}_31000.mp4",
        f"{ID}_3.mp4",
        f"{ID}_300.mp4",
        f"{ID}_30.5.mp4",
        f"{ID}_thirty.mp4",
        f"{ID}x.mp4",
        f"{ID.swapcase()}.mp4",
        f"x{ID}.mp4",
    ],
)
def test_what_is_not_the_segments_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(FetchFailure) as caught:
        fetcher(tmp_path).fetch(segment())
    assert caught.value.cause == Cause.GONE
    assert f"no file for {ID}_30000 in {tmp_path}" in caught.value.words


def test_ids_that_differ_by_case_or_by_a_tail_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["abcdefghijk.mp4", "abcdefghijK.mp4", "abcdefghijk_5.mp4", "abcdefghij_.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    assert found(tmp_path, segment("abcdefghijk")) == ("abcdefghijk.mp4", None)
    assert found(tmp_path, segment("abcdefghijK")) == ("abcdefghijK.mp4", None)
    assert found(tmp_path, segment("abcdefghijk", 5000)) == ("abcdefghijk_5.mp4", 0)
    assert found(tmp_path, segment("abcdefghij_")) == ("abcdefghij_.mp4", None)


def test_the_segments_own_file_comes_before_the_videos_and_pictures_before_sound(tmp_path: Path) -> None:
    for name in (f"{ID}.wav", f"{ID}.webm", f"{ID}.mp4", f"Y{ID}.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert found(tmp_path, segment()) == (f"{ID}.mp4", None)
    (tmp_path / f"{ID}_30.wav").write_bytes(b"x")
    assert found(tmp_path, segment()) == (f"{ID}_30.wav", 0)


@pytest.mark.parametrize("ytid", ["../secret", "/etc/hostname", "..", ".", "", "sub/inner", "a\x00b"])
def test_no_id_leads_out_of_the_folder(tmp_path: Path, ytid: str) -> None:
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "sub" / "inner.mp4").write_bytes(b"inner")
    with pytest.raises(FetchFailure) as caught:
        fetcher(folder).fetch(segment(ytid))
    assert caught.value.cause == Cause.GONE


def test_a_folder_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / f"{ID}.mp4").write_bytes(b"x")
    source = fetcher(tmp_path)
    (tmp_path / "later-clip_.mp4").write_bytes(b"x")
    with pytest.raises(FetchFailure):
        source.fetch(segment("later-clip_"))
    (tmp_path / f"{ID}.mp4").unlink()
    with pytest.raises(FetchFailure) as caught:
        source.fetch(segment())
    assert caught.value.cause == Cause.GONE
    source.close()


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_that_is_none_is_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a folder of media files.*dir:/path"):
        fetcher(tmp_path / name)


def test_kept_clips_are_cut_out_of_longer_files(tmp_path: Path) -> None:
    video = Video(seconds=30, width=96, height=64, fps=10, key_every=20)
    data = write_media(tmp_path / f"{ID}.mp4", video, Audio(seconds=30)).read_bytes()
    clip = fetcher(tmp_path, keep=True).fetch(segment(start_ms=12_000, end_ms=16_000))
    assert clip.path is None
    assert clip.data is not None
    assert clip.size == len(clip.data) < len(data) / 2
    assert (clip.extension, clip.media_start_ms) == ("mp4", 2000)
    assert clip.sha256 == hashlib.sha256(clip.data).hexdigest()
    (tmp_path / "cut.mp4").write_bytes(clip.data)
    with av.open(tmp_path / "cut.mp4") as container:
        assert 5 < (container.duration or 0) / 1e6 < 7


def test_kept_clips_that_are_the_segments_are_kept_as_they_are(tmp_path: Path) -> None:
    path = write_media(tmp_path / f"{ID}.wav", audio=Audio(seconds=4, codec="pcm_s16le"))
    clip = fetcher(tmp_path, keep=True).fetch(segment(start_ms=12_000, end_ms=16_000))
    assert (clip.data, clip.extension, clip.media_start_ms) == (path.read_bytes(), "wav", 0)


def test_what_cannot_be_cut_is_kept_for_the_decoder_to_judge(tmp_path: Path) -> None:
    (tmp_path / f"{ID}.mp4").write_bytes(b"no media" * 100)
    clip = fetcher(tmp_path, keep=True).fetch(segment())
    assert (clip.data, clip.extension, clip.media_start_ms) == (b"no media" * 100, "mp4", None)
    with pytest.raises(FetchFailure) as caught:
        fetcher(tmp_path, keep=True, max_bytes=100).fetch(segment())
    assert caught.value.cause == Cause.UNDECODABLE


@pytest.mark.parametrize(
    ("rest", "start_ms", "says"),
    [
        ("_0", 0, True),
        ("_0.000_10.000", 0, True),
        ("_7.5", 7500, True),
        ("_7500", 7500, True),
        ("_7", 7500, False),
        ("_30.f18", 30_000, True),
        ("", 0, False),
        ("_", 0, False),
        ("30", 30_000, False),
        ("_30000000000", 30_000, False),
    ],
)
def test_starts_in_names(rest: str, start_ms: int, says: bool) -> None:
    assert names_start(rest, start_ms) == says


def test_real_clips(shared_data: Path) -> None:
    source = fetcher(shared_data / "real_clips")
    for line in (shared_data / "real_clips" / "segments.csv").read_text().splitlines():
        if line.startswith("#"):
            continue
        ytid, start, end, *_ = line.split(", ")
        clip = source.fetch(segment(ytid, round(1000 * float(start)), round(1000 * float(end))))
        assert clip.path is not None
        assert Path(clip.path).stem == ytid


def test_links_in_a_circle_and_names_that_are_no_text_harm_nobody(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("absent")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + ID.encode() + b".m\xffp4")).write_bytes(b"odd")
    (tmp_path / f"{ID}.mp4").write_bytes(b"media")
    assert found(tmp_path, segment()) == (f"{ID}.mp4", None)
