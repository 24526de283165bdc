from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Two threads: what the smallest machine that runs these tests has."""
    torch.set_num_threads(2)
