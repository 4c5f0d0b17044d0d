from __future__ import annotations

import io
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import Audio, Video, board, write_media
from PIL import Image

from pipeline.demux import Demuxer, Limits, Undecodable, best_stream, decode


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(board(1, 96, 96)).save(buffer, format="PNG")
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    images = [Image.fromarray(board(i, 96, 96)) for i in range(3)]
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:])
    return buffer.getvalue()


STRANGERS = {
    "nothing": b"",
    "zeros": bytes(5000),
    "noise": np.random.default_rng(1).bytes(100_000),
    "text": b"this is not a video\n" * 200,
    "html": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>gone</body></html>" * 20,
    "json": b'{"error": {"code": 429, "message": "Too Many Requests"}}',
    "png": png(),
    "gif": gif(),
    "subtitles": b"1\n00:00:00,000 --> 00:00:05,000\nHello\n\n",
    "mp4 without moov": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0\1\0\0mdat" + bytes(65_528),
}


@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_media_is_undecodable_at_once(data: bytes) -> None:
    begun = time.monotonic()
    with pytest.raises(Undecodable, match="not a media file of a known format"):
        Demuxer(data, Limits())
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "script",
    [
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        "<Representation><BaseURL>{path}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["hls", "concat", "sdp", "dash"],
)
@pytest.mark.parametrize("suffix", [".txt", ".m3u8", ".mp4"])
def test_playlists_open_nothing(tmp_path: Path, script: str, suffix: str) -> None:
    media = write_media(tmp_path / "secret.ts", Video(seconds=1))
    playlist = tmp_path / f"list{suffix}"
    playlist.write_text(script.format(path=media))
    for source in (playlist, playlist.read_bytes()):
        with pytest.raises(Undecodable, match="not a media file"):
            Demuxer(source, Limits())


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/clip.mp4", "concat:a.ts|b.ts", "pipe:0", "missing.mp4"])
def test_names_are_files_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        Demuxer(name, Limits())


def test_half_a_file_without_its_index_is_undecodable(tmp_path: Path) -> None:
    data = write_media(tmp_path / "clip.mp4", Video(seconds=3)).read_bytes()
    with pytest.raises(Undecodable):
        Demuxer(data[: len(data) // 2], Limits())


def test_tracks_and_lengths_are_told(tmp_path: Path) -> None:
    both = write_media(tmp_path / "both.mp4", Video(seconds=2), Audio(seconds=2))
    for source in (both, str(both), both.read_bytes()):
        with Demuxer(source, Limits()) as demuxer:
            assert demuxer.has("audio")
            assert demuxer.has("video")
            assert demuxer.duration_ms == pytest.approx(2000, abs=30)
            assert demuxer.begins_s == 0
            assert "mp4" in demuxer.description
            assert "2.0 s long" in demuxer.description


def test_a_length_that_is_not_declared_is_measured(tmp_path: Path) -> None:
    path = write_media(tmp_path / "live.mkv", Video(seconds=3), Audio(seconds=4), live="1")
    with av.open(str(path)) as container:
        assert container.duration is None
    with Demuxer(path, Limits()) as demuxer:
        assert demuxer.duration_ms == pytest.approx(4000, abs=50)
        assert "unknown length" in demuxer.description
        assert next(next(demuxer.attempts("video", Fraction(0))).packets).pts == 0


@pytest.mark.parametrize("name", ["cover.mp3", "cover.mp4"])
def test_a_cover_is_no_video(tmp_path: Path, name: str) -> None:
    codec = "mp3" if name.endswith("mp3") else "aac"
    path = write_media(tmp_path / name, audio=Audio(seconds=1, codec=codec), cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with Demuxer(path, Limits()) as demuxer:
        assert demuxer.has("audio")
        assert not demuxer.has("video")


def test_the_default_of_several_tracks_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition.hearing_impaired
        streams[1].disposition = av.stream.Disposition.default
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.full((1, 16000), 1000, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            output.mux(stream.encode(frame))
    with av.open(str(path)) as container:
        assert best_stream(container, "audio").index == 1
        assert best_stream(container, "video") is None


def test_a_seek_reads_little_and_no_other_track(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=12, key_every=30), Audio(seconds=12))
    with Demuxer(path, Limits()) as demuxer:
        for kind in ("audio", "video", "audio"):
            attempt = next(demuxer.attempts(kind, Fraction(10)))
            packets = list(attempt.packets)
            assert not attempt.from_beginning
            assert {packet.stream.type for packet in packets} == {kind}
            assert 9 < packets[0].pts * attempt.tick_s <= 10


def test_the_last_attempt_reads_from_the_beginning(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mkv", Video(seconds=6))
    with Demuxer(path, Limits()) as demuxer:
        firsts = [(next(a.packets).pts * a.tick_s, a.from_beginning) for a in demuxer.attempts("video", Fraction(4))]
        assert list(demuxer.attempts("audio", Fraction(4))) == []
    assert [begin for _, begin in firsts] == [False, False, True]
    assert firsts[0][0] == pytest.approx(4, abs=0.01)
    assert firsts[-1][0] == 0


def test_too_large_a_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=0.2, width=640, height=360))
    with pytest.raises(Undecodable, match="640x360 pixels; at most 320x320"):
        Demuxer(path, Limits(max_width=320, max_height=320))


def test_too_many_channels_are_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", audio=Audio(seconds=0.2, layout="5.1"))
    with pytest.raises(Undecodable, match="6 channels; at most 2"):
        Demuxer(path, Limits(max_channels=2))


def test_bad_packets_are_skipped_up_to_a_limit(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", audio=Audio(seconds=4))
    for limit, expected in ((500, True), (3, False)):
        with Demuxer(path, Limits()) as demuxer:
            attempt = next(demuxer.attempts("audio", Fraction(0)))
            packets = list(attempt.packets)
            broken = [av.Packet(b"\xff" * 40) if 20 <= i < 40 else packet for i, packet in enumerate(packets)]
            decoded = list(decode(attempt.stream, broken, Limits(max_bad_packets=limit)))
        assert (len(decoded) > 100) is expected
        assert any(lost for _, lost in decoded) is expected


def test_metadata_that_is_no_utf8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "XXXXXXXX"
        stream = output.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        output.mux(stream.encode(frame))
    with Demuxer(path.read_bytes().replace(b"XXXXXXXX", b"\xff\xfe\xe9\xe8\xff\xfe\xe9\xe8"), Limits()) as demuxer:
        assert demuxer.has("audio")
