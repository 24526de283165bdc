"""A mailbox in which the newest item wins: a slow reader sees the present, never a queue of the past."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Slot = TypeVar("Slot", bound=Hashable)


class Mailbox(Generic[Slot, Item]):
    """One slot for each of several senders, which holds at most one item. One more replaces it, and counts as a drop.

    One reader serves all slots in turn, so that a fast sender never keeps a slow one waiting for more than one item.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[Slot, Item] = {}
        self._turns: dict[Slot, int] = {}
        self._turn = 0
        self._dropped: dict[Slot, int] = {}
        self._closed = False

    def dropped(self, slot: Slot) -> int:
        """Items of a slot that were replaced before anyone took them, or came too late for that."""
        return self._dropped.get(slot, 0)

    def put(self, slot: Slot, item: Item, yields: bool = False) -> None:
        """Leave an item, in place of one that is still there, or not at all where it yields to that one.

        Never waits; after ``close`` the item counts as a drop.
        """
        with self._changed:
            if self._closed or slot in self._items:
                self._dropped[slot] = self.dropped(slot) + 1
                if self._closed or yields:
                    return
            self._items[slot] = item
            self._changed.notify()

    def get(self, timeout: float | None = None) -> tuple[Slot, Item] | None:
        """Take the item of the slot that was served longest ago, waiting for one.

        Args:
            timeout: Seconds to wait; None waits indefinitely.

        Returns:
            The slot and its item; None when the time is up or the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            slot = min(self._items, key=lambda slot: self._turns.get(slot, 0))
            self._turn += 1
            self._turns[slot] = self._turn
            return slot, self._items.pop(slot)

    def close(self) -> None:
        """Let go everyone who waits, and take nothing in any more; what is still there counts as dropped."""
        with self._changed:
            self._closed = True
            for slot in self._items:
                self._dropped[slot] = self.dropped(slot) + 1
            self._items = {}
            self._changed.notify_all()
