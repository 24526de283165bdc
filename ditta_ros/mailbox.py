"""A mailbox for one item, in which the newest wins: a slow reader sees the present, never a queue of the past."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds at most one item. One more replaces it, and counts as a drop."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """Items that were replaced before anyone took them."""
        return self._dropped

    def put(self, item: Item) -> None:
        """Leave an item, in place of one that is still there. Never waits; after ``close`` it does nothing."""
        with self._changed:
            if self._closed:
                return
            self._dropped += len(self._items)
            self._items = [item]
            self._changed.notify()

    def get(self, timeout: float | None = None) -> Item | None:
        """Take the item, waiting up to ``timeout`` seconds (for ever where None) for one.

        Returns:
            The item; None when the time is up or the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            return self._items.pop() if self._items else None

    def close(self) -> None:
        """Let go everyone who waits, and take nothing in any more."""
        with self._changed:
            self._closed = True
            self._items = []
            self._changed.notify_all()
