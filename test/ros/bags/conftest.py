"""Bags that several tests read, and what is read from bags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bag_harness import STORAGES, numbered
from rosbags.rosbag2 import Reader

from ditta_ros.bags.writer import BagOptions, Storage, make_bag


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the topic of every message that is read from any bag."""
    topics: list[str] = []
    original = Reader.messages

    def counted(self: Reader, *arguments: Any, **options: Any) -> Iterator[tuple[Any, int, bytes]]:
        for connection, timestamp, content in original(self, *arguments, **options):
            topics.append(connection.topic)
            yield connection, timestamp, content

    monkeypatch.setattr(Reader, "messages", counted)
    return topics


@pytest.fixture(scope="session")
def numbered_bags(tmp_path_factory: pytest.TempPathFactory) -> dict[Storage, Path]:
    """90 frames, every third labelled, large enough for several chunks."""
    folder = tmp_path_factory.mktemp("numbered")
    for storage in STORAGES:
        make_bag(numbered(90, every=3, height=120, width=160), folder / storage, BagOptions(storage=storage))
    return {storage: folder / storage for storage in STORAGES}
