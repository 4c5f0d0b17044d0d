"""A source whose every answer is scripted, for tests of what is done with answers."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from pipeline.clip import FetchedClip
from pipeline.failures import FetchFailure
from pipeline.segments import Segment

Answer = bytes | FetchFailure | Exception


class ScriptedFetcher:
    """Answers each key's fetches in the order of its script; bytes are the default answer, and the last one repeats."""

    def __init__(self, script: dict[str, Sequence[Answer]] | None = None) -> None:
        self.script = {key: list(answers) for key, answers in (script or {}).items()}
        self.asked: Counter[str] = Counter()
        self.before: Callable[[Segment], None] = lambda segment: None
        self._lock = threading.Lock()

    def fetch(self, segment: Segment) -> FetchedClip:
        with self._lock:
            self.asked[segment.key] += 1
            answers = self.script.get(segment.key, [])
            answer: Answer = b"media of " + segment.key.encode()
            if answers:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.before(segment)
        if isinstance(answer, Exception):
            raise answer
        digest = hashlib.sha256(answer).hexdigest()
        return FetchedClip(segment, answer, None, "mp4", 250, digest, len(answer), len(answer), 1, "http")

    def close(self) -> None:
        pass


def segments(count: int) -> list[Segment]:
    """Segments whose ids begin with '-', hold '_' and differ by case only."""
    ids = [f"-a_{i // 2}{'x' if i % 2 else 'X'}" for i in range(count)]
    label = {"mids": ("/m/09x0r",), "labels": (0,)}
    return [Segment(f"{y}_{1000 * i}", y, 1000 * i, 1000 * i + 10_000, **label) for i, y in enumerate(ids)]
