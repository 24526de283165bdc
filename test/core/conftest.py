from __future__ import annotations

import pytest
import torch

from ditta_core.adaptation import guard


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Two threads: what the smallest machine that runs these tests has."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def learns_from_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests train on a few frames, on which an adaptation trains nothing by itself."""
    monkeypatch.setattr(guard, "SMALLEST_LESSON", 1)
