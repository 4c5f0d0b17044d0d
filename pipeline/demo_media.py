"""A small synthetic AudioSet for the demo and the tests: real H.264/AAC files and CSVs in AudioSet's own form.

The labels are dealt, not drawn. Every clip gets at most one class out of each of three groups (recognisable by sound
only, by picture only, by both), and in every sixteen clips of a split each pair of states of two groups comes up once,
in every sixty nearly each triple. So the classes are balanced even in a small split, and no model can guess what it
can't hear or see from what it can.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import string
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import av
import numpy as np

from pipeline.demo_scenes import CLASSES, DemoClass, backdrop, room_tone

logger = logging.getLogger(__name__)

VERSION = 2  # of the content: raise it whenever a change here or in demo_scenes.py makes other media
CLIPS = {"train": 56, "valid": 16, "select": 16, "eval": 24}
HEIGHT, WIDTH = 144, 256
SEGMENT_S = 10
SHORT_S = 7
LONG_VIDEOS = ((40, 20), (50, 30), (60, 30))  # (seconds of the whole video, second where its segment starts)
CLIPS_PER_LONG = 16  # so many clips of train to each long one; a train split of 8 has one too
SPECIAL = {
    "no_audio": "has no audio track",
    "no_picture": "has no video track",
    "mute": "has an audio track of digital silence",
    "still": "shows the same frame all the time",
    "short": f"ends after {SHORT_S} of its {SEGMENT_S} seconds",
    "long": "is a longer video with the segment in its middle",
}
Event = tuple[DemoClass, float, float]  # a class, and when it begins and ends, in seconds of the segment
GROUPS = tuple(tuple(cls for cls in CLASSES if cls.cue == cue) for cue in ("sound", "picture", "both"))


@dataclass(frozen=True, slots=True)
class DemoClip:
    """One planned clip. Times in ms of the video; `special` is a key of SPECIAL, or '' for an ordinary clip."""

    split: str
    ytid: str
    start_ms: int
    end_ms: int
    video_ms: int
    classes: tuple[str, ...]  # display names
    special: str = ""

    @property
    def key(self) -> str:
        """'<ytid>_<start_ms>', as everywhere in the store."""
        return f"{self.ytid}_{self.start_ms}"


@dataclass(frozen=True, slots=True)
class DemoDataset:
    """What `make_demo_dataset` laid down: `media`/<ytid>.mp4, one CSV per split, and the plan that both follow."""

    folder: Path
    media: Path
    segments: dict[str, Path]  # split -> CSV in AudioSet's form
    clips: tuple[DemoClip, ...]

    @property
    def labels(self) -> Path:
        """The list of its nine classes, in the form of AudioSet's."""
        return self.folder / "class_labels_indices.csv"

    @property
    def special(self) -> dict[str, tuple[str, ...]]:
        """The keys of the clips of each kind of SPECIAL."""
        return {kind: tuple(clip.key for clip in self.clips if clip.special == kind) for kind in SPECIAL}


# --- the plan --------------------------------------------------------------------------------------------------------


def plan_demo(seed: int = 0, clips: Mapping[str, int] = CLIPS, case_pair: bool = True) -> tuple[DemoClip, ...]:
    """The clips of every split, special ones in `train`.

    In a split of 8 or more clips every class has at least two positives, in one of 24 or more at least six. Among the
    ids are some that begin with '-', some with '_' inside and, with case_pair, two that differ by case only. A pure
    function of its arguments.

    Raises ValueError where `train` has fewer than 8 clips, or another split fewer than one.
    """
    if clips.get("train", 0) < 8 or min(clips.values()) < 1:
        raise ValueError(
            "expected at least 8 clips in train (its special clips need them) and 1 in any other split, "
            f"got {dict(clips)}; ask for more clips or leave the split out"
        )
    rng = np.random.default_rng(seed)
    ids = iter(_youtube_ids(rng, sum(clips.values()), case_pair))
    planned: list[DemoClip] = []
    for split, count in clips.items():
        rows = [
            DemoClip(split, next(ids), 0, 1000 * SEGMENT_S, 1000 * SEGMENT_S, tuple(cls.name for cls in classes))
            for classes in _deal(rng, count)
        ]
        planned += _with_specials(rows) if split == "train" else rows
    return tuple(planned)


def _deal(rng: np.random.Generator, count: int) -> list[tuple[DemoClass, ...]]:
    """Labels of `count` clips, out of blocks of 16 that hold each pair of states of two groups once.

    A state is 0 for none of the group's classes, or the class's number. As elements of the field of four the states of
    a block are (x, x + y, 2x + y + c), and four blocks with c = 0, 1, 2, 3 hold each of the 64 triples once: so not
    even two groups together tell anything of the third. For equal c and y, four clips hold every state of each group.
    """
    double = (0, 2, 3, 1)  # multiplication by 2 in the field of four
    labels: list[tuple[DemoClass, ...]] = []
    while len(labels) < count:
        names = [rng.permutation(4) for _ in GROUPS]
        # AudioSet has no clip without a label. The four clips among which it would be come last, and are left out.
        x, second, third = (int(np.flatnonzero(name == 0)[0]) for name in names)
        bad_y = x ^ second
        bad_c = double[x] ^ bad_y ^ third
        for c in _with_last(rng, bad_c):
            for y in _with_last(rng, bad_y):
                if (c, y) == (bad_c, bad_y):
                    continue
                for state in range(4):
                    row = (state, state ^ y, double[state] ^ y ^ c)
                    states = [int(name[index]) for name, index in zip(names, row, strict=True)]
                    labels.append(
                        tuple(group[number - 1] for group, number in zip(GROUPS, states, strict=True) if number)
                    )
    return labels[:count]


def _with_last(rng: np.random.Generator, last: int) -> list[int]:
    """0 to 3 in some order, but for what comes last."""
    return [int(value) for value in rng.permutation(4) if value != last] + [last]


def _youtube_ids(rng: np.random.Generator, count: int, case_pair: bool) -> list[str]:
    """Eleven characters of YouTube's alphabet each; the troublesome ones come first."""
    alphabet = list(string.ascii_letters + string.digits + "-_")
    ids = ["".join(row) for row in rng.choice(alphabet, (count, 11))]
    ids[0] = "-" + ids[0][1:]
    ids[1] = "--" + ids[1][2:]
    ids[2] = ids[2][:4] + "_" + ids[2][5:]
    if case_pair:
        ids[3] = "aB" + ids[3][2:]
        ids[4] = ids[3].swapcase()
    return ids


def _with_specials(rows: list[DemoClip]) -> list[DemoClip]:
    """Turns some rows into the special clips, so that what lacks sound or picture keeps labels that show or sound."""
    cues = [{cls.cue for cls in CLASSES if cls.name in row.classes} for row in rows]
    # a row whose labels all both sound and show suits every kind, so it goes last
    free = sorted(range(len(rows)), key=lambda row: cues[row] == {"both"})

    def turn(kind: str, without: str | None = None, video_s: int = SEGMENT_S, start_s: int = 0) -> None:
        row = next(row for row in free if without not in cues[row])
        free.remove(row)
        start_ms, end_ms = 1000 * start_s, 1000 * (start_s + SEGMENT_S)
        rows[row] = replace(rows[row], special=kind, start_ms=start_ms, end_ms=end_ms, video_ms=1000 * video_s)

    turn("no_picture", without="picture")
    turn("no_audio", without="sound")
    turn("mute", without="sound")
    turn("still")
    turn("short", video_s=SHORT_S)
    for video_s, start_s in LONG_VIDEOS[: max(1, len(rows) // CLIPS_PER_LONG)]:
        turn("long", video_s=video_s, start_s=start_s)
    return rows


# --- the media -------------------------------------------------------------------------------------------------------


def _write_video(media: Path, seed: int, clip: DemoClip) -> None:
    """Synthesises one clip and encodes it, second by second, as a faststart mp4 that gets its name once it is whole."""
    rng = np.random.default_rng(list(hashlib.sha256(f"{seed} {clip.key}".encode()).digest()))
    fps, rate = int(rng.choice((30, 30, 25))), int(rng.choice((44_100, 48_000)))
    sound_rng, picture_rng = rng.spawn(2)
    events = _events(rng, clip)
    waveform, frames = _soundtrack(sound_rng, clip, events, rate), _pictures(picture_rng, clip, events, fps)
    part = media / f"{clip.ytid}.mp4.part"
    with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as container:
        picture, sound = None, None
        if clip.special != "no_picture":
            # YouTube's files have B-frames too: a cutter must cope with packets out of display order.
            picture = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "bf": "2", "crf": "28"})
            picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            picture.codec_context.thread_count = 1
        if clip.special != "no_audio":
            # The default coder takes three times as long, more than all the rest of a clip.
            coder = {"aac_coder": "fast"}
            sound = container.add_stream("aac", rate=rate, layout="stereo", bit_rate=96_000, options=coder)
        for second in range(clip.video_ms // 1000):
            if picture:
                for _ in range(fps):
                    frame = av.VideoFrame.from_ndarray(next(frames), format="rgb24")
                    container.mux(picture.encode(frame.reformat(format="yuv420p", threads=1)))
            if sound:
                piece = np.ascontiguousarray(waveform[:, second * rate : (second + 1) * rate])
                samples = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                samples.sample_rate, samples.pts = rate, second * rate
                container.mux(sound.encode(samples))
        if picture:
            container.mux(picture.encode(None))
        if sound:
            container.mux(sound.encode(None))
    os.replace(part, media / f"{clip.ytid}.mp4")


def _events(rng: np.random.Generator, clip: DemoClip) -> list[Event]:
    """When the clip's classes are to be heard and seen, which is most of the segment."""
    length = min(clip.video_ms / 1000, SEGMENT_S)
    chosen = [cls for cls in CLASSES if cls.name in clip.classes]
    return [(cls, length * rng.uniform(0.0, 0.15), length * rng.uniform(0.85, 1.0)) for cls in chosen]


def _soundtrack(rng: np.random.Generator, clip: DemoClip, events: list[Event], rate: int) -> np.ndarray:
    """float32 [2, samples] in −1..1: faint room tone all along, and in the segment the sounds at −22 to −12 dBFS."""
    samples = clip.video_ms // 1000 * rate
    if clip.special == "mute":
        return np.zeros((2, samples), np.float32)
    seconds = np.arange(min(samples, SEGMENT_S * rate)) / rate
    hush = _decibels(rng.uniform(-54, -44)) * room_tone(rng, seconds, rate)
    mix = np.resize(hush, (2, samples))  # in a long video it goes round; made by an inverse FFT, it has no seam
    first = clip.start_ms // 1000 * rate
    for cls, begin, end in events:
        if cls.sound is None:
            continue
        wave = cls.sound(rng, seconds, rate)
        fades = np.clip(np.minimum(seconds - begin, end - seconds) / 0.03, 0, 1)
        wave *= (fades * _decibels(rng.uniform(-22, -12)) / np.sqrt(np.mean(wave**2))).astype(np.float32)
        left, right = rng.uniform(0.7, 1.0, 2)
        mix[:, first : first + len(wave)] += np.stack((left * wave, right * wave))
    return (mix * min(1.0, 0.9 / np.abs(mix).max())).astype(np.float32)


def _pictures(rng: np.random.Generator, clip: DemoClip, events: list[Event], fps: int) -> Iterator[np.ndarray]:
    """The frames, uint8 [HEIGHT, WIDTH, 3] RGB: a backdrop all along, and in the segment what is to be seen over it."""
    scene = backdrop(rng, HEIGHT, WIDTH)
    drawn = [(cls.picture(rng, HEIGHT, WIDTH), begin, end) for cls, begin, end in events if cls.picture]
    frame = np.empty((HEIGHT, WIDTH, 3), np.float32)
    for index in range(clip.video_ms // 1000 * fps):
        second = SEGMENT_S / 2 if clip.special == "still" else index / fps - clip.start_ms / 1000
        scene(frame, second)
        for paint, begin, end in drawn:
            if begin <= second < end:
                paint(frame, second)
        yield np.clip(frame, 0, 255, out=frame).astype(np.uint8)


def _decibels(level: float) -> float:
    return 10.0 ** (level / 20.0)


# --- the data set ----------------------------------------------------------------------------------------------------


def make_demo_dataset(folder: Path, seed: int = 0, clips: Mapping[str, int] = CLIPS, workers: int = 2) -> DemoDataset:
    """Lays down the media and CSVs of `plan_demo(seed, clips)` in folder, unless that very set lies there already.

    On one machine the same (seed, clips) makes the same bytes each time, for any number of worker processes. A script
    that calls this needs its `if __name__ == "__main__"`, because the processes are spawned.

    Raises ValueError as `plan_demo` does, and OSError where the folder can't be written.
    """
    folder = Path(folder)
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    planned = plan_demo(seed, clips, case_pair=_tells_case(media))
    dataset = DemoDataset(folder, media, {split: folder / f"{split}.csv" for split in clips}, planned)
    described = {"version": VERSION, "seed": seed, "clips": [asdict(clip) for clip in planned]}
    if _lies_there(dataset, described):
        return dataset
    (folder / "demo.json").unlink(missing_ok=True)
    logger.info("making %d videos in %s", len(planned), media)
    longest_first = sorted(planned, key=lambda clip: -clip.video_ms)
    write = partial(_write_video, media, seed)
    if workers > 1:
        # Spawned, because a caller with threads, such as Ray's, must not be forked.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(write, longest_first))
    else:
        list(map(write, longest_first))
    _write_labels(dataset.labels)
    for split, path in dataset.segments.items():
        _write_segments(path, [clip for clip in planned if clip.split == split])
    sizes = {path.name: path.stat().st_size for path in _files(dataset)}
    part = folder / "demo.json.part"
    part.write_text(json.dumps({"described": described, "sizes": sizes}, indent=1))
    os.replace(part, folder / "demo.json")
    return dataset


def _files(dataset: DemoDataset) -> list[Path]:
    return [dataset.labels, *dataset.segments.values(), *(dataset.media / f"{clip.ytid}.mp4" for clip in dataset.clips)]


def _lies_there(dataset: DemoDataset, described: dict[str, object]) -> bool:
    """Whether the folder's note, which is written last, tells of the same set, and its files have their sizes."""
    try:
        note = json.loads((dataset.folder / "demo.json").read_text())
        sizes = {path.name: path.stat().st_size for path in _files(dataset)}
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return note == json.loads(json.dumps({"described": described, "sizes": sizes}))


def _tells_case(folder: Path) -> bool:
    """Whether the file system keeps names apart that differ by case only; macOS's and Windows's usual ones don't."""
    probe = folder / ".Case"
    probe.touch()
    try:
        return not (folder / ".cASE").exists()
    finally:
        probe.unlink()


def _write_labels(path: Path) -> None:
    rows = [f'{index},{cls.mid},"{cls.name}"' for index, cls in enumerate(CLASSES)]
    path.write_text("\n".join(["index,mid,display_name", *rows]) + "\n")


def _write_segments(path: Path, clips: list[DemoClip]) -> None:
    """A CSV in AudioSet's form: three comment lines, then rows with a space after each comma and the mids in quotes."""
    mids = {cls.name: cls.mid for cls in CLASSES}
    labels = [name for clip in clips for name in clip.classes]
    counts = f"num_ytids={len(clips)}, num_segs={len(clips)}, num_unique_labels={len(set(labels))}"
    lines = [
        "# Segments csv of avlens' synthetic demo set",
        f"# {counts}, num_positive_labels={len(labels)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    for clip in clips:
        quoted = ",".join(mids[name] for name in clip.classes)
        lines.append(f'{clip.ytid}, {clip.start_ms / 1000:.3f}, {clip.end_ms / 1000:.3f}, "{quoted}"')
    path.write_text("\n".join(lines) + "\n")
