"""Every operator against the cases by which ONNX itself decides who implements it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the package onnx")

from ditta_core.segmentation.onnx_graph import TABLE, _attribute
from ditta_core.segmentation.onnx_operators import UnsupportedError, bounded, constant_of_shape, range_, tile

OTHER_TYPES = "cannot be a tensor of torch"


@pytest.mark.slow
def test_what_an_operator_gives_is_what_onnx_says() -> None:
    """Some refuse attributes and types; none gives anything else."""
    from onnx.backend.test.case.node import collect_testcases

    agreeing: Counter[str] = Counter()
    for case in collect_testcases(None):
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        (node,) = case.model.graph.node
        if node.op_type not in TABLE or node.domain or "training_dropout" in case.name:  # which is random
            continue
        names = [value.name for value in case.model.graph.input]
        for inputs, expected in case.data_sets:
            try:
                values = {name: torch.from_numpy(np.array(value)) for name, value in zip(names, inputs, strict=True)}
                attributes = {each.name: _attribute(each) for each in node.attribute}
                attributes |= {"outputs": len(node.output), "opset": case.model.opset_import[0].version}
                made = TABLE[node.op_type]([values.get(name) for name in node.input], attributes)
            except (UnsupportedError, TypeError, NotImplementedError, RuntimeError, IndexError):
                continue  # whoever loads a network takes these for "cannot be converted"
            made = made if isinstance(made, tuple) else (made,)
            for ours, theirs, name in zip(made, expected, node.output, strict=False):
                if name:
                    reference = np.array(theirs)
                    np.testing.assert_allclose(
                        ours.numpy().astype(reference.dtype), reference, rtol=1e-3, atol=1e-5, err_msg=case.name
                    )
            agreeing[node.op_type] += 1
    missing = set(TABLE) - set(agreeing)
    assert missing <= {"Cast", "CastLike"}, missing


def test_casts_keep_single_precision() -> None:
    values = torch.tensor([1.7, -1.7])
    for number, expected in (
        (1, torch.float32),
        (10, torch.float32),
        (11, torch.float32),
        (7, torch.int64),
        (9, torch.bool),
    ):
        assert TABLE["Cast"]([values], {"to": number}).dtype == expected
    assert TABLE["Cast"]([values], {"to": 7}).tolist() == [1, -1]
    with pytest.raises(UnsupportedError, match="the type 8"):
        TABLE["Cast"]([values], {"to": 8})


def test_a_few_bytes_do_not_ask_for_gigabytes() -> None:
    with pytest.raises(UnsupportedError, match="more than"):
        constant_of_shape([torch.tensor([100_000, 100_000])], {})
    with pytest.raises(UnsupportedError, match="more than"):
        range_([torch.tensor(0), torch.tensor(10**12), torch.tensor(1)], {})
    with pytest.raises(UnsupportedError, match="more than"):
        tile([torch.zeros(1000, 1000), torch.tensor([1000, 1000])], {})
    with pytest.raises(UnsupportedError, match="more than"):
        TABLE["Expand"]([torch.zeros(1, 1), torch.tensor([100_000, 100_000])], {})
    assert bounded("Tile", [3, 4]) == [3, 4]
