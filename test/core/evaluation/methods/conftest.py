from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(few_threads: None) -> None:
    """The models are so small that a second thread only waits."""
    torch.set_num_threads(1)
