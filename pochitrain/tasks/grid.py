"""The points of a grid, by number: every combination of what the dimensions' own grids hold, made one at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence

from pochitrain.config.search import Dimension, Scalar


class Grid:
    """All combinations; the last dimension changes fastest."""

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        self.columns = {dimension.name: dimension.grid() for dimension in dimensions}
        self.places = {name: {value: at for at, value in enumerate(own)} for name, own in self.columns.items()}
        self.count = math.prod(map(len, self.columns.values()))

    def point(self, number: int) -> dict[str, Scalar]:
        point = {}
        for name, column in reversed(self.columns.items()):
            number, at = divmod(number, len(column))
            point[name] = column[at]
        return point

    def number(self, point: Mapping[str, Scalar]) -> int | None:
        """Return the number of a point, None when it lies beside the grid or is not whole."""
        number = 0
        for name, places in self.places.items():
            if name not in point or point[name] not in places:
                return None
            number = number * len(places) + places[point[name]]
        return number

    def numbers(self, points: Iterable[Mapping[str, Scalar]]) -> set[int]:
        """Return the numbers of those points that are the grid's."""
        return {number for point in points if (number := self.number(point)) is not None}

    def draw(self, tried: set[int], drawn: random.Random) -> int:
        """Return a number at random, one that is not in `tried` as long as there is one."""
        if 2 * len(tried) >= self.count:
            return drawn.choice([number for number in range(self.count) if number not in tried] or range(self.count))
        while (number := drawn.randrange(self.count)) in tried:
            pass
        return number
