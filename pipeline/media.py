"""From a clip's media to its segment's waveform and frames, with flags for what is missing, mute, still or short."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.audio_decode import Sound, SoundRules, decode_sound, open_sound_file, read_sound, resample
from pipeline.demux import CLIP_SLACK_MS, Demuxer, Limits, Undecodable
from pipeline.video_decode import FrameSpec, Picture, decode_picture

__all__ = [
    "DecodeRules",
    "DecodedClip",
    "FrameSpec",
    "Limits",
    "SoundRules",
    "Undecodable",
    "decode_clip",
    "start_in_file",
]

# A whole video's declared length may miss the end of its last segment by this much.
END_SLACK_MS = 250


@dataclass(frozen=True)
class DecodeRules:
    """The constants that decide what a clip counts as; they belong to the spec of every column.

    A clip is decodable when one of its tracks has `enough_s` seconds or `enough_share` of the segment, whichever is
    less. A present track with less than the segment − `short_by_s` seconds is short. Sound whose peak stays below
    `mute_below_dbfs` is mute. Frames `still_every_s` apart that differ by less than `still_below_levels` (mean absolute
    difference over the clip, levels of 0–255) are still: over the clip, because the first key frame of a still picture
    is often coarser than the next.
    """

    enough_s: float = 5.0
    enough_share: float = 0.5
    short_by_s: float = 0.25
    mute_below_dbfs: float = -60.0
    still_every_s: float = 1.0
    still_below_levels: float = 0.5
    sound: SoundRules = field(default_factory=SoundRules)


@dataclass(frozen=True)
class DecodedClip:
    """What was decoded of one segment.

    `waveform` float32 [n ≤ round(seconds · sample_rate)], mono, about [−1, 1], neither padded nor normalised, zeros
    where the track has a gap; `frames` uint8 [M ≤ fps · seconds, size, size, 3] RGB, the last one not repeated to the
    end. Both are None where not asked for or not there. `audio_s` and `video_s`: seconds of the segment really decoded,
    0 for a track not asked for. `has_audio` and `has_video`: the track gave something inside the segment, or, not asked
    for, exists. `audio_track` and `video_track`: the media have such a track, whether or not it was asked for.
    """

    waveform: np.ndarray | None
    audio_s: float
    frames: np.ndarray | None
    video_s: float
    has_audio: bool
    has_video: bool
    mute: bool
    still: bool
    short: bool
    audio_track: bool
    video_track: bool


def start_in_file(file_duration_ms: int | None, segment_start_ms: int, segment_end_ms: int) -> int:
    """Where a segment starts in a file of which only the video's id is known: in ms, on the file's timeline.

    The file is either the whole video (at least as long as the segment's end) or the segment's own clip (hardly longer
    than the segment), then 0; a file that could be both is the one whose length is nearer. A file that is neither is
    taken for a video cut off, one of unknown length for a clip.
    """
    length = segment_end_ms - segment_start_ms
    if file_duration_ms is None:
        return 0
    whole = file_duration_ms >= segment_end_ms - END_SLACK_MS
    clip = file_duration_ms <= length + CLIP_SLACK_MS
    if whole and clip:
        clip = abs(file_duration_ms - length) < abs(file_duration_ms - segment_end_ms)
    return 0 if clip else segment_start_ms


DEFAULT_LIMITS = Limits()
DEFAULT_RULES = DecodeRules()


def decode_clip(
    source: bytes | str | Path,
    *,
    start_ms: int | None,
    segment_start_ms: int,
    segment_end_ms: int,
    sample_rate: int | None,
    frames: FrameSpec | None,
    limits: Limits = DEFAULT_LIMITS,
    rules: DecodeRules = DEFAULT_RULES,
    out: np.ndarray | None = None,
) -> DecodedClip:
    """Decodes the segment [`segment_start_ms`, `segment_end_ms`) out of a clip's media.

    `source` is the media's bytes or a file's path; `start_ms` is where the segment starts on the media's own timeline
    (None: see `start_in_file`). `sample_rate` in Hz and `frames` ask for sound and picture; None leaves a track out,
    but whether the clip is decodable does not depend on what is asked for. `out`, a C-contiguous uint8 array
    [frames.count(seconds) or more, size, size, 3], takes the frames (`DecodedClip.frames` is then a view of it): they
    reach shared memory without a copy.

    Raises `Undecodable` where neither track holds enough of the segment or the media ask for more than `limits`;
    ValueError for arguments that contradict each other; OSError where the file cannot be read.
    """
    _check_arguments(segment_start_ms, segment_end_ms, sample_rate, frames, out)
    length_s = Fraction(segment_end_ms - segment_start_ms, 1000)
    wanted = _Wanted(length_s, sample_rate, frames, rules)
    with open_sound_file(source) as file:
        if file is not None:
            start = start_ms
            if start is None:
                start = start_in_file(round(1000 * file.frames / file.samplerate), segment_start_ms, segment_end_ms)
            sound = read_sound(file, Fraction(start, 1000), Fraction(start, 1000) + length_s, limits)
            if sound is not None and sound.seconds >= wanted.enough_s:
                return wanted.clip(sound, None, has_audio=True, has_video=False)
    with Demuxer(source, limits) as demuxer:
        start = start_ms
        if start is None:
            start = start_in_file(demuxer.duration_ms, segment_start_ms, segment_end_ms)
        return _decode_tracks(demuxer, demuxer.begins_s + Fraction(start, 1000), wanted, limits, out)


def _check_arguments(
    start_ms: int, end_ms: int, sample_rate: int | None, frames: FrameSpec | None, out: np.ndarray | None
) -> None:
    if end_ms <= start_ms:
        raise ValueError(f"a segment must end after it starts, got {start_ms} ms to {end_ms} ms")
    if sample_rate is not None and sample_rate <= 0:
        raise ValueError(f"expected a sample rate in Hz or None, got {sample_rate}")
    if out is None:
        return
    if frames is None:
        raise ValueError("an array for frames was given, but no FrameSpec: pass frames as well, or no out")
    count, shape = frames.count(Fraction(end_ms - start_ms, 1000)), (frames.size, frames.size, 3)
    if out.dtype != np.uint8 or out.shape[1:] != shape or len(out) < count or not out.flags.c_contiguous:
        expected = f"uint8 [{count} or more, {frames.size}, {frames.size}, 3], C-contiguous"
        raise ValueError(f"expected out {expected}, got {out.dtype} {list(out.shape)}")


@dataclass(frozen=True)
class _Wanted:
    """What is asked of a clip, and the clip that answers it."""

    length_s: Fraction
    sample_rate: int | None
    frames: FrameSpec | None
    rules: DecodeRules

    @property
    def enough_s(self) -> float:
        return min(self.rules.enough_s, self.rules.enough_share * float(self.length_s))

    def clip(self, sound: Sound | None, picture: Picture | None, *, has_audio: bool, has_video: bool) -> DecodedClip:
        """`has_audio` and `has_video` say whether the media has such a track at all."""
        waveform = frames = None
        audio_s = video_s = 0.0
        full_s = float(self.length_s) - self.rules.short_by_s
        short = still = False
        audio_track, video_track = has_audio, has_video
        if self.sample_rate is not None:
            audio_s = sound.seconds if sound is not None else 0.0
            short |= has_audio and audio_s < full_s
            has_audio = sound is not None
            waveform = resample(sound, self.sample_rate, self.rules.sound) if sound is not None else None
        if self.frames is not None:
            video_s = picture.seconds if picture is not None else 0.0
            short |= has_video and video_s < full_s
            has_video = picture is not None
            frames = picture.frames if picture is not None else None
            still = frames is not None and _is_still(frames, self.frames, self.rules)
        return DecodedClip(
            waveform=waveform,
            audio_s=audio_s,
            frames=frames,
            video_s=video_s,
            has_audio=has_audio,
            has_video=has_video,
            mute=waveform is not None and _is_mute(waveform, self.rules),
            still=still,
            short=short,
            audio_track=audio_track,
            video_track=video_track,
        )


def _decode_tracks(
    demuxer: Demuxer, start_s: Fraction, wanted: _Wanted, limits: Limits, out: np.ndarray | None
) -> DecodedClip:
    end_s = start_s + wanted.length_s
    has_audio, has_video = demuxer.has("audio"), demuxer.has("video")
    sound = picture = None
    if wanted.sample_rate is not None:
        sound = decode_sound(demuxer, start_s, end_s, wanted.rules.sound, limits)
    if wanted.frames is not None and has_video:
        if out is None:
            size = wanted.frames.size
            out = np.empty((wanted.frames.count(wanted.length_s), size, size, 3), np.uint8)
        picture = decode_picture(demuxer, start_s, end_s, wanted.frames, limits, out)
    seconds = max((track.seconds for track in (sound, picture) if track is not None), default=0.0)
    # What was not asked for still decides whether the clip is decodable.
    if seconds < wanted.enough_s and wanted.sample_rate is None:
        unasked = decode_sound(demuxer, start_s, end_s, wanted.rules.sound, limits)
        seconds = max(seconds, unasked.seconds if unasked is not None else 0.0)
    if seconds < wanted.enough_s and wanted.frames is None:
        untaken = decode_picture(demuxer, start_s, end_s, FrameSpec(), limits, None, wanted.enough_s)
        seconds = max(seconds, untaken.seconds if untaken is not None else 0.0)
    if seconds < wanted.enough_s:
        span = f"{float(start_s):g} s to {float(end_s):g} s of a file that is {demuxer.description}"
        raise Undecodable(f"{seconds:.2f} s can be decoded from {span}; at least {wanted.enough_s:g} s are needed")
    return wanted.clip(sound, picture, has_audio=has_audio, has_video=has_video)


def _is_mute(waveform: np.ndarray, rules: DecodeRules) -> bool:
    return float(np.abs(waveform).max(initial=0.0)) < 10 ** (rules.mute_below_dbfs / 20)


def _is_still(frames: np.ndarray, spec: FrameSpec, rules: DecodeRules) -> bool:
    step = max(1, min(round(spec.fps * rules.still_every_s), len(frames) - 1))
    sampled = frames[::step].astype(np.int16)
    if len(sampled) < 2:
        return False
    return bool(np.abs(np.diff(sampled, axis=0)).mean() < rules.still_below_levels)
