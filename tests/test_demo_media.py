"""The demo's synthetic AudioSet: its plan is balanced and its files are what the plan says."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo_media import CLIPS, LONG_VIDEOS, SPECIAL, DemoClip, DemoDataset, make_demo_dataset, plan_demo
from pipeline.demo_scenes import CLASSES

SMALL = {"train": 8, "eval": 2}
CUES = {cls.name: cls.cue for cls in CLASSES}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return make_demo_dataset(tmp_path_factory.mktemp("demo"), seed=1, clips=SMALL)


def clip_of(dataset: DemoDataset, special: str) -> DemoClip:
    return next(clip for clip in dataset.clips if clip.special == special)


def media_of(dataset: DemoDataset, clip: DemoClip) -> Path:
    return dataset.media / f"{clip.ytid}.mp4"


def decoded_sound(path: Path) -> tuple[np.ndarray, int]:
    """Every sample of the file, float [n] mono, and its rate."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        pieces = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
    return np.concatenate(pieces), rate


def decoded_pictures(path: Path) -> np.ndarray:
    """Every tenth frame's luma, float [n, H, W]."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.stack(frames[::10]).astype(float)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(8, 70), rest=st.integers(1, 40))
def test_every_class_is_in_every_split(seed: int, count: int, rest: int) -> None:
    clips = plan_demo(seed, {"train": count, "eval": rest})
    for split, size in (("train", count), ("eval", rest)):
        mine = [clip for clip in clips if clip.split == split]
        positives = Counter(name for clip in mine for name in clip.classes)
        assert len(mine) == size
        assert all(1 <= len(clip.classes) <= 3 for clip in mine)
        least = min(positives[cls.name] for cls in CLASSES)
        assert least >= (6 if size >= 24 else 2 if size >= 8 else 0)
    assert len({clip.key for clip in clips}) == count + rest
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", clip.ytid) for clip in clips)


def test_labels_of_one_group_tell_nothing_of_another() -> None:
    """In every block of 16 clips any two groups are independent: each of the 4 × 4 pairs of states is there once."""
    clips = plan_demo(5, {"train": 48})
    for first in range(0, 48, 16):
        rows = [
            {
                cue: next((name for name in clip.classes if CUES[name] == cue), None)
                for cue in ("sound", "picture", "both")
            }
            for clip in clips[first : first + 16]
        ]
        for one, other in (("sound", "picture"), ("sound", "both"), ("picture", "both")):
            assert len({(row[one], row[other]) for row in rows}) == 16


def test_two_groups_together_tell_nothing_of_the_third() -> None:
    """Sixty clips hold sixty triples of states, each once; those that are missing share a pair with the empty one."""
    for seed in range(20):
        clips = plan_demo(seed, {"train": 60})
        triples = Counter(tuple(sorted(clip.classes)) for clip in clips)
        assert len(triples) == 60 and () not in triples


def test_ids_are_the_troublesome_kind() -> None:
    ids = [clip.ytid for clip in plan_demo()]
    assert sum(ytid.startswith("-") for ytid in ids) >= 2
    assert any("_" in ytid for ytid in ids)
    twins = [names for names in Counter(ytid.lower() for ytid in ids).values() if names == 2]
    assert len(twins) == 1
    assert len({ytid.lower() for ytid in (clip.ytid for clip in plan_demo(case_pair=False))}) == sum(CLIPS.values())


def test_plan_depends_on_its_arguments_only() -> None:
    assert plan_demo(3) == plan_demo(3)
    assert plan_demo(3) != plan_demo(4)


@pytest.mark.parametrize("clips", [{"train": 7}, {"eval": 20}, {"train": 20, "eval": 0}])
def test_too_few_clips_are_refused(clips: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 8 clips in train"):
        plan_demo(0, clips)


@given(seed=st.integers(0, 2**32), count=st.integers(8, 60))
@settings(max_examples=40, deadline=None)
def test_special_clips_keep_a_label_that_can_be_recognised(seed: int, count: int) -> None:
    clips = plan_demo(seed, {"train": count})
    kinds = Counter(clip.special for clip in clips if clip.special)
    longs = 3 if count >= 48 else 2 if count >= 32 else 1
    assert kinds == Counter({kind: longs if kind == "long" else 1 for kind in SPECIAL})
    for clip in clips:
        cues = {CUES[name] for name in clip.classes}
        if clip.special in ("no_audio", "mute"):
            assert "sound" not in cues
        if clip.special == "no_picture":
            assert "picture" not in cues


def test_classes_are_audiosets_own(repository: Path) -> None:
    with (repository / "pipeline" / "class_labels_indices.csv").open(encoding="utf-8", newline="") as lines:
        names = {row["mid"]: row["display_name"] for row in csv.DictReader(lines)}
    assert {cls.mid: cls.name for cls in CLASSES}.items() <= names.items()


def test_segments_are_in_audiosets_form(dataset: DemoDataset) -> None:
    mids = {cls.name: cls.mid for cls in CLASSES}
    for split, path in dataset.segments.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line[:2] for line in lines[:3]] == ["# "] * 3
        assert lines[2] == "# YTID, start_seconds, end_seconds, positive_labels"
        assert f"num_segs={SMALL[split]}" in lines[1]
        assert all(re.fullmatch(r'[\w-]{11}, \d+\.000, \d+\.000, "/m/\w+(,/m/\w+)*"', line) for line in lines[3:])
        rows = list(csv.reader(lines[3:], skipinitialspace=True))
        mine = [clip for clip in dataset.clips if clip.split == split]
        assert [row[0] for row in rows] == [clip.ytid for clip in mine]
        assert [(1000 * float(row[1]), 1000 * float(row[2])) for row in rows] == [(c.start_ms, c.end_ms) for c in mine]
        assert [row[3].split(",") for row in rows] == [[mids[name] for name in clip.classes] for clip in mine]


def test_files_hold_the_tracks_and_times_that_the_plan_says(dataset: DemoDataset) -> None:
    assert {path.stem for path in dataset.media.iterdir()} == {clip.ytid for clip in dataset.clips}
    for clip in dataset.clips:
        with av.open(str(media_of(dataset, clip))) as container:
            codecs = {stream.type: stream.codec_context.name for stream in container.streams}
            assert codecs.get("video") == (None if clip.special == "no_picture" else "h264")
            assert codecs.get("audio") == (None if clip.special == "no_audio" else "aac")
            for stream in container.streams:
                assert float(stream.duration * stream.time_base) == pytest.approx(clip.video_ms / 1000, abs=0.05)
            if container.streams.audio:
                assert container.streams.audio[0].channels == 2
    assert {clip.video_ms - clip.end_ms for clip in dataset.clips if not clip.special} == {0}


def test_index_comes_before_the_media(dataset: DemoDataset) -> None:
    for clip in dataset.clips:
        data = media_of(dataset, clip).read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_mute_still_and_short_clips_are(dataset: DemoDataset) -> None:
    silence, _ = decoded_sound(media_of(dataset, clip_of(dataset, "mute")))
    assert np.abs(silence).max() < 1e-4
    still = decoded_pictures(media_of(dataset, clip_of(dataset, "still")))
    assert np.abs(np.diff(still, axis=0)).mean() < 0.5  # what is left is the encoder refining the one picture
    short, rate = decoded_sound(media_of(dataset, clip_of(dataset, "short")))
    assert len(short) / rate == pytest.approx(7, abs=0.05)


def test_ordinary_clips_sound_and_move(dataset: DemoDataset) -> None:
    ordinary = [clip for clip in dataset.clips if not clip.special]
    assert ordinary
    for clip in ordinary:
        sound, _ = decoded_sound(media_of(dataset, clip))
        assert 1e-3 < np.abs(sound).max() <= 1.05
        assert np.abs(np.diff(decoded_pictures(media_of(dataset, clip)), axis=0)).mean() > 1.0


def test_long_videos_have_the_events_inside_the_segment_only(dataset: DemoDataset) -> None:
    longs = [clip for clip in dataset.clips if clip.special == "long"]
    assert {(clip.video_ms // 1000, clip.start_ms // 1000) for clip in longs} <= set(LONG_VIDEOS)
    audible = [clip for clip in longs if any(CUES[name] != "picture" for name in clip.classes)]
    assert audible
    for clip in audible:
        sound, rate = decoded_sound(media_of(dataset, clip))
        level = np.sqrt(np.square(sound[: len(sound) // rate * rate].reshape(-1, rate)).mean(axis=1))
        inside = np.zeros(len(level), bool)
        inside[clip.start_ms // 1000 : clip.end_ms // 1000] = True
        assert np.median(level[inside]) > 5 * level[~inside].max()


def test_same_seed_makes_the_same_bytes_and_an_existing_set_is_left_alone(dataset: DemoDataset, tmp_path: Path) -> None:
    again = make_demo_dataset(tmp_path, seed=1, clips=SMALL, workers=1)

    def digests(made: DemoDataset) -> dict[str, str]:
        paths = [*made.media.iterdir(), *made.segments.values()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    assert again.clips == dataset.clips
    assert digests(again) == digests(dataset)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert make_demo_dataset(tmp_path, seed=1, clips=SMALL) == again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
