"""The losses of a whole run in bounded space, for a graph.

The one thing a reader would get wrong: a point is a mean over `stride` iterations, and the stride doubles whenever
the points would exceed their number. A million iterations and a thousand take the same room.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_POINTS = 1024


@dataclass
class LossHistory:
    """Means of the src and dst losses: `points` holds (last iteration, src, dst)."""

    stride: int = 1
    points: list[tuple[int, float, float]] = field(default_factory=list)
    _count: int = 0
    _src_sum: float = 0.0
    _dst_sum: float = 0.0

    def add(self, iteration: int, count: int, src_mean: float, dst_mean: float) -> None:
        """Adds the means over the `count` iterations that end with `iteration`."""
        self._count += count
        self._src_sum += src_mean * count
        self._dst_sum += dst_mean * count
        if self._count < self.stride:
            return
        self.points.append((iteration, self._src_sum / self._count, self._dst_sum / self._count))
        self._count, self._src_sum, self._dst_sum = 0, 0.0, 0.0
        if len(self.points) >= MAX_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(b[0], (a[1] + b[1]) / 2, (a[2] + b[2]) / 2) for a, b in pairs]
            self.stride *= 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        pending = [self._count, self._src_sum, self._dst_sum]
        return {"stride": self.stride, "points": [list(point) for point in self.points], "pending": pending}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LossHistory":
        """Inverse of to_dict. Raises ValueError when the values are not of that shape."""
        try:
            points = [(int(iteration), float(src), float(dst)) for iteration, src, dst in values["points"]]
            count, src_sum, dst_sum = values["pending"]
            return cls(int(values["stride"]), points, int(count), float(src_sum), float(dst_sum))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a loss history: {error!r}") from error
