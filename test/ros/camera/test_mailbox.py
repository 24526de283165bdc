from __future__ import annotations

import threading
import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ditta_ros.camera.mailbox import Mailbox


def test_the_newest_wins_and_the_others_count_as_drops() -> None:
    mailbox: Mailbox[str, int] = Mailbox()
    for item in range(5):
        mailbox.put("front", item)
    assert mailbox.get(0) == ("front", 4)
    assert mailbox.dropped("front") == 4
    assert mailbox.get(0) is None
    mailbox.put("front", 5)
    assert mailbox.get(0) == ("front", 5)
    assert mailbox.dropped("front") == 4
    assert mailbox.dropped("rear") == 0


def test_an_item_that_yields_is_dropped_where_one_waits() -> None:
    mailbox: Mailbox[str, int] = Mailbox()
    for item in range(6):
        mailbox.put("front", item, yields=item % 2 == 1)
    assert mailbox.get(0) == ("front", 4)
    assert mailbox.dropped("front") == 5
    mailbox.put("front", 7, yields=True)
    assert mailbox.get(0) == ("front", 7)


def test_a_fast_sender_does_not_keep_a_slow_one_waiting() -> None:
    mailbox: Mailbox[str, int] = Mailbox()
    served = []
    for item in range(12):
        mailbox.put("fast", item)
        if item % 2 == 0:
            mailbox.put("slow", item)
        if item % 3 == 2:
            mailbox.put("slowest", item)
        taken = mailbox.get(0)
        assert taken is not None
        served.append(taken[0])
    counts = Counter(served)
    assert counts["slowest"] == 4, "every item of the slowest was taken"
    assert counts["slow"] >= 3
    assert counts["fast"] >= 3


@given(st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.integers()), st.none())))
def test_equals_a_brute_force_model(events: list[tuple[str, int] | None]) -> None:
    """Puts and takes (None) in any order: the newest of each, the one served longest ago first, drops counted."""
    mailbox: Mailbox[str, int] = Mailbox()
    newest: dict[str, int] = {}
    history: list[str] = []
    drops: Counter[str] = Counter()
    for event in events:
        if event is not None:
            slot, item = event
            drops[slot] += slot in newest
            newest[slot] = item
            mailbox.put(slot, item)
            continue
        taken = mailbox.get(0)
        assert (taken is None) == (not newest)
        if taken is not None:
            slot, item = taken
            assert newest.pop(slot) == item
            for other in newest:  # nobody who waits was served longer ago
                assert last(history, slot) <= last(history, other)
            history.append(slot)
    assert {slot: mailbox.dropped(slot) for slot in "abc"} == {slot: drops[slot] for slot in "abc"}


def last(history: list[str], slot: str) -> int:
    return len(history) - 1 - history[::-1].index(slot) if slot in history else -1


def test_get_waits_for_an_item() -> None:
    mailbox: Mailbox[int, str] = Mailbox()
    threading.Timer(0.1, mailbox.put, [0, "late"]).start()
    assert mailbox.get(10) == (0, "late")


def test_get_gives_up_when_the_time_is_up() -> None:
    start = time.monotonic()
    assert Mailbox[int, int]().get(0.1) is None
    assert time.monotonic() - start >= 0.1


def test_close_lets_go_and_takes_nothing_more() -> None:
    mailbox: Mailbox[int, int] = Mailbox()
    threading.Timer(0.1, mailbox.close).start()
    assert mailbox.get() is None
    mailbox.put(0, 1)
    assert mailbox.get() is None


def test_what_is_unread_at_close_or_comes_later_counts_as_dropped() -> None:
    mailbox: Mailbox[int, int] = Mailbox()
    mailbox.put(0, 1)
    mailbox.close()
    assert mailbox.get() is None
    assert (mailbox.dropped(0), mailbox.dropped(1)) == (1, 0)
    for item in range(3):
        mailbox.put(1, item, yields=item == 1)
    assert (mailbox.dropped(0), mailbox.dropped(1)) == (1, 3)


def test_nothing_is_lost_between_threads() -> None:
    mailbox: Mailbox[int, int] = Mailbox()
    taken: list[int] = []

    def read() -> None:
        while (entry := mailbox.get()) is not None:
            taken.append(entry[1])

    reader = threading.Thread(target=read)
    reader.start()
    for item in range(1, 2001):
        mailbox.put(0, item)
    while not taken or taken[-1] != 2000:
        time.sleep(0.001)
    mailbox.close()
    reader.join(10)
    assert taken == sorted(taken)
    assert len(taken) + mailbox.dropped(0) == 2000
