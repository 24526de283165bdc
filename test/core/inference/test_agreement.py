from __future__ import annotations

import torch

from ditta_core.inference.agreement import LEAST, Agreement


def test_agreement() -> None:
    eager = torch.zeros(1, 3, 2, 2)
    eager[0, 1] = 1
    ours = eager.clone()
    ours[0, 2, 0, 0] = 2
    assert Agreement.of(ours, eager) == Agreement(0.75, 0.75)
    assert Agreement.of(ours.log(), eager) == Agreement(0, 0)  # infinite
    assert Agreement.of(ours[..., :1], eager) == Agreement(0, 0)


def test_who_contradicts_where_eager_torch_is_not_sure_disputes_nothing() -> None:
    eager = torch.zeros(1, 3, 1, 4)
    eager[0, 1] = torch.tensor([0.01, 0.1, 1.0, 5.0])  # leads of 0.003, 0.04, 0.36 and 0.97
    assert Agreement.of(eager.flip(1).roll(1, 1), eager) == Agreement(0, 0.5)
    assert Agreement.of(eager[:, :1], eager[:, :1]) == Agreement(1, 1)  # of one class
    assert Agreement(0.95, 0.99).suffices(LEAST["bfloat16"]) and not Agreement(0.95, 0.99).suffices(LEAST["float32"])
    assert not Agreement(0.85, 1).suffices(LEAST["bfloat16"])
