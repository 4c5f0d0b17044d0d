"""What crosses processes, or is a key, can."""

from __future__ import annotations

import pickle

from pipeline.clip import FetchedClip, FetchOptions
from pipeline.segments import Segment


def test_a_fetched_clip_survives_pickling() -> None:
    segment = Segment("a_b_0", "a_b", 0, 10_000, ("/m/09x0r",), (0,))
    clip = FetchedClip(segment, b"media", None, "mp4", 250, "00", 5, 7, 1, "http")
    assert pickle.loads(pickle.dumps(clip)) == clip


def test_options_are_a_key_whatever_yt_dlp_is_told() -> None:
    options = FetchOptions(ytdlp_params={"extractor_args": {"youtube": {"player_client": ["web"]}}})
    assert hash(options) == hash(FetchOptions())
    assert options != FetchOptions()
    assert pickle.loads(pickle.dumps(options)) == options
