"""A place in a sample order: enough to go on from it exactly, on any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from stores.order import Order


@dataclass(frozen=True)
class Position:
    """The next sample to be read.

    Attributes:
        snapshot_digest: of the samples that the order is over, see `stores.snapshot.Snapshot.digest`.
        order: the order's name.
        seed: the order's seed.
        epoch: from 0.
        offset: samples of that epoch that have been read.
    """

    snapshot_digest: str
    order: str
    seed: int
    epoch: int
    offset: int

    @classmethod
    def at(cls, snapshot_digest: str, order: Order, draw: int) -> Position:
        """The position before an order's draw (counted from its beginning, over all epochs)."""
        return cls(snapshot_digest, order.name, order.seed, *divmod(draw, order.epoch_size))

    def draw(self, snapshot_digest: str, order: Order) -> int:
        """The draw that comes next.

        Raises:
            ValueError: the position is one in other samples or in another order, or none at all.
        """
        here = Position(snapshot_digest, order.name, order.seed, 0, 0)
        differ = [
            f"{name} {getattr(self, name)!r}, not {getattr(here, name)!r}"
            for name in ("snapshot_digest", "order", "seed")
            if getattr(self, name) != getattr(here, name)
        ]
        if differ:
            raise ValueError(
                f"expected a position in this order of these samples, got one with {'; '.join(differ)}: go on with the "
                "manifests, columns, splits, order and seed that it was made with, or start anew without a position"
            )
        if not (self.epoch >= 0 and 0 <= self.offset < order.epoch_size):
            raise ValueError(
                f"expected epoch >= 0 and an offset in [0, {order.epoch_size}), got {self.epoch} and {self.offset}"
            )
        return self.epoch * order.epoch_size + self.offset

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Position:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        types = {"snapshot_digest": str, "order": str, "seed": int, "epoch": int, "offset": int}
        if set(raw) != {field.name for field in fields(cls)} or any(type(raw[k]) is not t for k, t in types.items()):
            raise ValueError(f"expected a position with {', '.join(types)}, got {dict(raw)!r}")
        return cls(**raw)
