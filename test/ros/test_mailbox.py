from __future__ import annotations

import threading
import time

from ditta_ros.mailbox import Mailbox


def test_the_newest_wins_and_the_others_count_as_drops() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in range(5):
        mailbox.put(item)
    assert mailbox.get(0) == 4
    assert mailbox.dropped == 4
    assert mailbox.get(0) is None
    mailbox.put(5)
    assert mailbox.get(0) == 5
    assert mailbox.dropped == 4


def test_get_waits_for_an_item() -> None:
    mailbox: Mailbox[str] = Mailbox()
    threading.Timer(0.1, mailbox.put, ["late"]).start()
    assert mailbox.get(10) == "late"


def test_get_gives_up_when_the_time_is_up() -> None:
    start = time.monotonic()
    assert Mailbox[int]().get(0.1) is None
    assert 0.1 <= time.monotonic() - start < 5


def test_close_lets_go_and_takes_nothing_more() -> None:
    mailbox: Mailbox[int] = Mailbox()
    threading.Timer(0.1, mailbox.close).start()
    assert mailbox.get() is None
    mailbox.put(1)
    assert mailbox.get() is None


def test_what_is_unread_at_close_is_gone() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.close()
    assert mailbox.get() is None
    assert mailbox.dropped == 0


def test_nothing_is_lost_between_threads() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def read() -> None:
        while (item := mailbox.get()) is not None:
            taken.append(item)

    reader = threading.Thread(target=read)
    reader.start()
    for item in range(1, 2001):
        mailbox.put(item)
    while not taken or taken[-1] != 2000:
        time.sleep(0.001)
    mailbox.close()
    reader.join(10)
    assert taken == sorted(taken)
    assert len(taken) + mailbox.dropped == 2000
