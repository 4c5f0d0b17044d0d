"""What `pipeline/ingest.py` is told, and the checks that need nothing but the words themselves."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import tyro

from pipeline.columns import EncoderOptions, feature_names
from pipeline.egress import PROXIES, Egress, is_proxy, read_egresses
from pipeline.failures import Cause
from pipeline.fetch import source_kind
from pipeline.politeness import Limits
from pipeline.selection import Selection, read_keys
from pipeline.weights import resolve_weights

# Set by Ray in the entry process of every submitted job.
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
RETRIED = (
    Cause.GONE,
    Cause.GONE_HERE,
    Cause.UNREACHABLE,
    Cause.UNDECODABLE,
    Cause.CRASHED,
)  # the causes that fail a clip
LONGEST_WAIT_S = 30 * 86_400.0
SLOWEST_PER_HOUR = 0.01  # one in four days
YOUTUBE_PER_HOUR = 300.0  # what a guest session is given (VIDEO.md section 4)


@dataclass(frozen=True)
class IngestOptions:
    """Turns AudioSet's segment lists into a feature store: fetches clips, computes log-mel banks and clip embeddings.

    Running it again continues: what is done stays, what is pending and due is tried, what is stale is made anew.
    """

    store: str
    """The store: a directory or an fsspec URI (s3://…, gs://…). Made if it is not there."""
    source: str
    """Where clips come from: youtube | ytdlp:URL | http:URL | dir:PATH. URLs may hold {ytid} {start_ms} {end_ms}
    {start_s} {end_s} {key}."""
    segments: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """eval | balanced_train | unbalanced_train (AudioSet's own, downloaded and cached) or NAME=PATH of a CSV in the
    same form. Give it once per split."""
    labels: str | None = None
    """Class list (index,mid,display_name). Default: AudioSet's 527 classes, shipped with this program."""
    columns: str = "logmel"
    """Features to compute, separated by commas: logmel, r2plus1d_34, r2plus1d_152, r2plus1d_18; or none."""
    shard_size: int | None = None
    """Clips in a shard; fixed when the store is made (default 512)."""
    seed: int | None = None
    """Seed of the plan's order; fixed when the store is made (default 0)."""
    skip_bad_rows: bool = False
    """Leave out rows of a segment list that cannot be used, and count them, instead of stopping."""

    encoder_weights: str | None = None
    """Weights of the clip encoder: ig65m (downloaded and checked), a file, or random:SEED."""
    encoder_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Arithmetic of the clip encoder; part of the column's spec."""
    encoder_actors: int | None = None
    """Encoder actors. Default: as many as the cluster's GPUs hold, or one on a CPU."""
    encoder_gpus: float = 1.0
    """Share of a GPU that an encoder actor takes, where there are GPUs."""
    window_frames: int = 32
    """Frames of a clip encoder's window; part of the column's spec."""
    fps: float = 30.0
    """Frames a second that the clip encoder sees; part of the column's spec."""
    frame_size: int = 112
    """Height and width that it sees; part of the column's spec."""

    media: Literal["keep", "drop"] | None = None
    """Keep the fetched bytes in media shards. Default: keep; drop for dir:, whose files stay where they are."""
    retry: str = ""
    """Failed clips to try again, by cause, separated by commas: gone, gone_here, unreachable, undecodable, crashed. The
    last two are decoded again where their media are in the store, and fetched again where they are not."""
    retry_keys: str | None = None
    """Of those, only the clips of this file: a key in each line, as `python -m stores failed` prints them. Clips
    that are pending come by themselves, when they are due."""
    retry_class: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Of those, only clips of this class (/m/09x0r or "Speech"); may be given several times. Beside --retry-keys: clips
    that either names."""
    retry_delay: float | None = None
    """Seconds before a clip that failed for a passing reason is tried again; grows with each try. Default: 300 after
    unreachable, 60 after being throttled."""
    wait: float = 300.0
    """Wait for pending clips that come due within so many seconds, instead of leaving them to the next run."""
    videos_per_hour: float | None = None
    """Budget of videos asked for, of each egress, kept over the whole cluster and across restarts. Default: 300 for
    youtube, none for others."""
    requests_per_second: float | None = None
    """Limit of plain HTTP requests of each egress. Default: none."""
    egresses: str | None = None
    """TOML file of the addresses to fetch from: a table each, with proxy, cookies, source_address, videos_per_hour,
    requests_per_second, as far as they are other than the flags'."""
    fetch_threads: int = 8
    """Clips that one shard fetches at once."""
    fetch_shards: int | None = None
    """Shards that fetch at once. Default: two per node; one per egress where there is a budget."""
    read_timeout: float = 20.0
    """Seconds to wait for the next bytes of an answer."""
    fetch_deadline: float = 180.0
    """Seconds that fetching one clip may take in all."""
    proxy: str | None = None
    """Proxy URL for fetching."""
    cookies: str | None = None
    """Cookie file (Netscape form) for fetching."""

    cpus_per_shard: int = 1
    """CPUs, and decode processes, of one shard that computes columns."""
    seconds_per_clip: float = 120.0
    """Time limit for decoding a clip."""
    max_failed_fraction: float = 0.0
    """Share of planned clips that may have failed with the exit code still 0."""

    def __post_init__(self) -> None:
        source_kind(self.source)
        counts = ("fetch_threads", "fetch_shards", "cpus_per_shard", "encoder_actors", "window_frames", "frame_size")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"expected --{name.replace('_', '-')} of at least 1, got {getattr(self, name)}")
        for name in ("read_timeout", "fetch_deadline", "seconds_per_clip"):
            if getattr(self, name) > LONGEST_WAIT_S:
                words = f"expected --{name.replace('_', '-')} of at most {LONGEST_WAIT_S:.0f} seconds"
                raise ValueError(f"{words}, got {getattr(self, name):g}")
        if not self.store or not self.store.isprintable() or self.store.startswith("memory:"):
            raise ValueError(f"expected --store of a directory or a bucket's URI, got {self.store!r}")
        if self.proxy and not is_proxy(self.proxy):
            raise ValueError(f"expected --proxy of {', '.join(PROXIES)}://host:port, got {self.proxy!r}")
        if self.videos_per_hour is not None and 0 < self.videos_per_hour < SLOWEST_PER_HOUR:
            raise ValueError(f"expected --videos-per-hour of at least {SLOWEST_PER_HOUR}, got {self.videos_per_hour}")
        positive = ("encoder_gpus", "fps", "seconds_per_clip", "retry_delay", "videos_per_hour", "read_timeout")
        for name in (*positive, "fetch_deadline", "requests_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"expected --{name.replace('_', '-')} above 0, got {value}")
        if not 0 <= self.wait <= LONGEST_WAIT_S:
            raise ValueError(f"expected --wait of 0 to {LONGEST_WAIT_S:g} seconds, got {self.wait}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(f"expected --max-failed-fraction between 0 and 1, got {self.max_failed_fraction}")
        retried = [name for name in self.retry.split(",") if name and name not in RETRIED]
        if retried:
            raise ValueError(f"expected --retry of {', '.join(RETRIED)}; got {', '.join(retried)}")
        if (self.retry_keys or self.retry_class) and not self.retry:
            raise ValueError("expected --retry with --retry-keys or --retry-class: which causes are tried again?")
        unknown = [name for name in self.column_names if name not in feature_names()]
        if unknown:
            raise ValueError(f"expected --columns of {', '.join(feature_names())}; got {', '.join(unknown)}")

    @property
    def kind(self) -> str:
        """The source's kind: youtube, ytdlp, http or dir."""
        return source_kind(self.source)

    @property
    def column_names(self) -> list[str]:
        """The features asked for."""
        return [] if self.columns in ("", "none") else self.columns.split(",")

    @property
    def retry_causes(self) -> frozenset[Cause]:
        """Causes of failed clips that are tried again."""
        return frozenset(Cause(name) for name in self.retry.split(",") if name)

    @property
    def retry_statuses(self) -> frozenset[str]:
        """Statuses of clips that are decoded again."""
        return frozenset({"undecodable", "crashed"} & {str(cause) for cause in self.retry_causes})

    @cached_property
    def selection(self) -> Selection:
        """The clips that are tried again. Raises ValueError where the file is no list of keys."""
        try:
            keys = None if self.retry_keys is None else read_keys(self.retry_keys)
        except OSError as error:
            raise ValueError(f"--retry-keys {self.retry_keys} cannot be read: {error}") from None
        return Selection(keys, frozenset(self.retry_class))

    @property
    def keep_media(self) -> bool:
        """Whether fetched bytes go into media shards."""
        return (self.media or ("drop" if self.kind == "dir" else "keep")) == "keep"

    @property
    def per_hour(self) -> float | None:
        """Budget of fetches an hour."""
        return YOUTUBE_PER_HOUR if self.videos_per_hour is None and self.kind == "youtube" else self.videos_per_hour

    @cached_property
    def egress_list(self) -> tuple[Egress, ...]:
        """The addresses to fetch from. Raises ValueError where the file is none."""
        return read_egresses(self.egresses) if self.egresses else (Egress(),)

    @property
    def egress_limits(self) -> dict[str, Limits]:
        """What each of them may do, by its name."""
        given = (self.per_hour, self.requests_per_second, self.retry_delay)
        return {egress.name: egress.limits(*given) for egress in self.egress_list}

    def encoder_options(self, architecture: str) -> EncoderOptions | None:
        """How a clip encoder is run; None without weights. Raises ValueError when the weights cannot be had."""
        if self.encoder_weights is None:
            return None
        weights = resolve_weights(self.encoder_weights, architecture)
        return EncoderOptions(weights, self.encoder_dtype, self.window_frames, self.fps, self.frame_size)


def absolute_path(flag: str, path: str, environment: dict[str, str] | None = None, prefix: str = "") -> str:
    """What a flag says of a place, after its prefix, with a local path made absolute; URIs stay.

    Raises:
        ValueError: nothing is said; or a relative path inside a submitted job, where the working directory is a copy
            that is thrown away.
    """
    if not path:
        raise ValueError(f"expected {flag} of a path or a URI, got an empty one")
    if "://" in path or os.path.isabs(path):
        return prefix + path
    if JOB_VARIABLE in (os.environ if environment is None else environment):
        raise ValueError(
            f"{flag} {prefix}{path} is relative, and a job's working directory is a throw-away copy: give an "
            "absolute path that every node sees, or a URI such as s3://…"
        )
    return prefix + os.path.abspath(path)


def absolute_folder(flag: str, path: str, environment: dict[str, str] | None = None) -> str:
    """`absolute_path` of what is a folder, or will be one.

    Raises:
        ValueError: as `absolute_path`; or a file is there.
    """
    found = absolute_path(flag, path, environment)
    if os.path.isfile(found):
        raise ValueError(f"expected {flag} of a folder, {found} is a file")
    return found


def absolute_paths(options: IngestOptions, environment: dict[str, str] | None = None) -> IngestOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """

    def fix(flag: str, prefix: str, path: str) -> str:
        return absolute_path(flag, path, environment, prefix)

    changes: dict[str, object] = {"store": fix("--store", "", options.store)}
    if options.kind == "dir":
        changes["source"] = fix("--source", "dir:", options.source.removeprefix("dir:"))
    lists = []
    for item in options.segments:
        name, equals, path = item.partition("=")
        lists.append(fix("--segments", f"{name}=", path) if equals else item)
    changes["segments"] = tuple(lists)
    for flag in ("labels", "cookies", "encoder_weights", "egresses"):
        path = getattr(options, flag)
        if path is not None and not (flag == "encoder_weights" and (path == "ig65m" or path.startswith("random:"))):
            changes[flag] = fix(f"--{flag.replace('_', '-')}", "", path)
    return replace(options, **changes)  # type: ignore[arg-type]
