"""A dozen small clips with a list in AudioSet's form: what end-to-end tests ingest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from media_factory import Audio, Video, write_media

HEAD = "# Segments csv created for a test\n# num_ytids={n}, num_segs={n}\n# YTID, start_seconds, end_seconds, labels\n"
MIDS = ("/m/09x0r", "/m/05zppz", "/m/02zsn")


@dataclass(frozen=True)
class SmallClips:
    """Media `<ytid>.mp4` in a folder, and their list."""

    media: Path
    csv: Path
    ytids: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{ytid}_0" for ytid in self.ytids)


def write_list(path: Path, ytids: tuple[str, ...]) -> Path:
    """A segment list of ten-second segments that start at 0."""
    rows = [f'{ytid}, 0.000, 10.000, "{MIDS[i % 3]}"\n' for i, ytid in enumerate(ytids)]
    path.write_text(HEAD.format(n=len(ytids)) + "".join(rows))
    return path


def make_small_clips(folder: Path, count: int) -> SmallClips:
    """Encodes `count` clips that differ in sound and picture; ids begin with '-', hold '_' and differ by case only."""
    ytids = tuple(f"-a_{i // 2:07d}{'x' if i % 2 else 'X'}" for i in range(count))
    media = folder / "media"
    media.mkdir()
    for i, ytid in enumerate(ytids):
        numbers = [(i * 100 + k) % 4096 for k in range(40)]
        picture = Video(fps=4, width=64, height=64, numbers=numbers)
        write_media(media / f"{ytid}.mp4", picture, Audio(frequency=200.0 + 37 * i))
    return SmallClips(media, write_list(folder / "list.csv", ytids), ytids)
