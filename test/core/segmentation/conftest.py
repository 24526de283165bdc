"""Checkpoints of transformers that tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """Saves a network to a folder and tells its name."""

    def save(network: Any) -> str:
        network.save_pretrained(tmp_path / "network")
        return str(tmp_path / "network")

    return save
