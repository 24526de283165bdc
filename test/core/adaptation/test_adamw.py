from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from ditta_core.adaptation.adamw import AdamW


def test_optimiser_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), (2,))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizers = AdamW(ours, 1e-2, 0.1), torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1)
    for step in range(20):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            first, second, third = parameters
            loss = (first.sum() - 1) ** 2 + (second**3).sum() * 0.1
            if step > 10:  # the third has had no gradient before
                loss = loss + third.cos().sum()
            loss.backward()
            optimizer.step()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


def test_optimiser_loads_no_compiler() -> None:
    """``torch.optim.AdamW`` does at its first step, which costs a worker 1.3 s and 71 MB."""
    program = (
        "import sys, torch\n"
        "from ditta_core.adaptation.adamw import AdamW\n"
        "parameter = torch.nn.Parameter(torch.ones(3))\n"
        "parameter.grad = torch.ones(3)\n"
        "AdamW([parameter], 0.1, 0.0).step()\n"
        "assert float(parameter[0].detach()) < 1\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
