"""The process that touches strangers' media: decodes one clip at a time, computes its log-mel, and may be killed.

It is started by `pipeline.decoder` as `python -m pipeline.decode_child`, and leaves frames in memory shared with its
parent.
"""

from __future__ import annotations

import json
import mmap
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipeline.child_limits import child_parser, die_with, limit_data
from pipeline.media import DecodedClip, DecodeRules, FrameSpec, Undecodable, decode_clip

LOUDEST = 1e6  # full scale is 1; beyond 1e9 the log-mel's float32 overflows
LogMel = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Serves decode jobs until the parent closes the socket."""
    parser = child_parser(__doc__)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--logmel", action="store_true")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    with Connection(arguments.socket) as connection:
        frames = np.frombuffer(mmap.mmap(arguments.frames, 0), np.uint8)
        logmel = _load_logmel() if arguments.logmel else None
        limit_data(arguments.data_limit)
        connection.send_bytes(b"ready")
        serve(connection, frames, logmel)


def serve(connection: Connection, shared: np.ndarray, logmel: LogMel | None) -> None:
    """Answers jobs: header (JSON), media bytes unless a path is named → header (JSON), float16 log-mel if there is one.

    Args:
        shared: uint8 memory of the parent's, two slots of frames.
        logmel: float32 [n] at 16 kHz → float16 [400, 64]; None where no log-mel is wanted.
    """
    while True:
        try:
            job = json.loads(connection.recv_bytes())
            media = job["path"] or connection.recv_bytes()
        except EOFError:
            return
        array = b""
        # The loop over clips: whatever a clip brings up is an answer about that clip, not the end of the process.
        try:
            reply, array = _work(job, media, shared, logmel)
        except Undecodable as error:
            reply = {"status": "undecodable", "words": str(error)}
        except MemoryError:
            raise  # beyond its limit: the process goes, and the parent counts that against the clip
        except Exception:  # noqa: BLE001
            reply = {"status": "internal", "words": traceback.format_exc()}
        connection.send_bytes(json.dumps({**reply, "index": job["index"]}).encode())
        if array:
            connection.send_bytes(array)


def _work(
    job: dict[str, Any], media: bytes | str, shared: np.ndarray, logmel: LogMel | None
) -> tuple[dict[str, Any], bytes]:
    frames = None if job["frames"] is None else FrameSpec(**job["frames"])
    out = None
    if frames is not None:
        count, size = job["frame_count"], frames.size
        start = job["slot"] * count * size * size * 3
        out = shared[start : start + count * size * size * 3].reshape(count, size, size, 3)
    began = time.perf_counter()
    clip = decode_clip(
        media,
        start_ms=job["start_ms"],
        segment_start_ms=job["segment_start_ms"],
        segment_end_ms=job["segment_end_ms"],
        sample_rate=job["sample_rate"],
        frames=frames,
        out=out,
    )
    if clip.waveform is not None and not (np.abs(clip.waveform) <= LOUDEST).all():
        raise Undecodable("its sound holds samples that are not numbers, or beyond any sound")
    decoded = time.perf_counter()
    array = b""
    if logmel is not None and clip.waveform is not None and clip.has_audio:
        array = logmel(clip.waveform).tobytes()
    reply = _facts(clip, (job["segment_end_ms"] - job["segment_start_ms"]) / 1000)
    reply |= {"decode_s": decoded - began, "logmel_s": time.perf_counter() - decoded, "array_bytes": len(array)}
    return reply, array


def _facts(clip: DecodedClip, seconds: float) -> dict[str, Any]:
    """What manifests record. Each fact is about one track, so it is the same whatever else was asked for."""
    full_s = seconds - DecodeRules().short_by_s
    return {
        "status": "ok",
        "audio_track": clip.audio_track,
        "video_track": clip.video_track,
        "has_audio": clip.has_audio,
        "has_video": clip.has_video,
        "mute": clip.mute,
        "still": clip.still,
        "audio_ms": round(1000 * clip.audio_s),
        "sound_samples": 0 if clip.waveform is None else len(clip.waveform),  # up to its end, gaps included
        "video_ms": round(1000 * clip.video_s),
        "audio_short": clip.has_audio and clip.audio_s < full_s,
        "video_short": clip.has_video and clip.video_s < full_s,
        "frames": 0 if clip.frames is None else len(clip.frames),
    }


def _load_logmel() -> LogMel:
    """Torch is imported only where a log-mel is asked for: it takes seconds and 300 MB."""
    import torch

    from models import frontend

    torch.set_num_threads(1)
    module = frontend.LogMel()

    def compute(waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(waveform)[None])[0].numpy().astype(np.float16)

    return compute


if __name__ == "__main__":
    main()
