"""What was made lately and is asked for again: values that never change, kept while they fit into a budget of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values by key, the least lately used dropped first. Two threads that ask for a new key at once may both make it."""

    def __init__(self, most_bytes: int, size_bytes: Callable[[V], int]) -> None:
        self._most_bytes = most_bytes
        self._size_bytes = size_bytes
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made now if it is not held. A value over the budget is handed out and not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        size = self._size_bytes(value)
        with self._lock:
            if key not in self._values and size <= self._most_bytes:
                self._values[key] = value
                self._held_bytes += size
                while self._held_bytes > self._most_bytes:
                    _, dropped = self._values.popitem(last=False)
                    self._held_bytes -= self._size_bytes(dropped)
        return value
