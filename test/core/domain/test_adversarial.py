from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from domain_waves import P, wave
from torch import Tensor, nn

from ditta_core.domain.adversarial import (
    SOURCE,
    TARGET,
    Adversaries,
    Discriminator,
    Examples,
    domain_loss,
    entropy_map,
    weight_alignment,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_entropy_maps_add_up_to_the_normalised_entropy() -> None:
    entropy = torch.distributions.Categorical(P.permute(0, 2, 3, 1)).entropy() / math.log(5)
    torch.testing.assert_close(entropy_map(P).sum(1), entropy)
    certain = torch.eye(3).view(1, 3, 3, 1)
    assert entropy_map(certain).abs().max() == 0


def test_the_discriminator_is_the_published_one() -> None:
    discriminator = Discriminator(30, generator())
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_792_385
    assert not any(parameter.requires_grad for parameter in discriminator.parameters())
    with torch.inference_mode():
        assert discriminator(torch.zeros(1, 30, 64, 96)).shape == (1, 1, 2, 3)
        assert discriminator(torch.zeros(1, 30, 7, 40)).shape == (1, 1, 1, 1), "small maps are enlarged"


def test_initial_weights_follow_the_generator() -> None:
    one, same, other = (Discriminator(4, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one[0].weight, same[0].weight) and not torch.equal(one[0].weight, other[0].weight)


def test_domain_loss() -> None:
    logits = torch.tensor([2.0, -1.0])
    assert float(domain_loss(logits, TARGET)) == pytest.approx(-(F.logsigmoid(logits).mean().item()))
    assert float(domain_loss(logits, SOURCE)) == pytest.approx(-(F.logsigmoid(-logits).mean().item()))


def test_golden_number_of_the_alignment_of_weights() -> None:
    one, other = nn.Module(), nn.Module()
    one.weight, other.weight = nn.Parameter(wave((6,), 1, 0, 1)), nn.Parameter(wave((6,), 1, 1, 1))
    assert weight_alignment(one, other).item() == pytest.approx(1.576924, abs=1e-6)
    assert weight_alignment(one, one).item() == pytest.approx(2)


def test_a_step_is_that_of_torch_and_touches_nothing_else() -> None:
    """Two discriminators, of which one learns; the maps come with a graph, which gets no gradient."""
    learner, idle = Discriminator(3, generator()), Discriminator(3, generator(1))
    before = [parameter.clone() for parameter in learner.parameters()]
    source, target = (torch.rand(1, 3, 32, 32, generator=generator(seed), requires_grad=True) for seed in (2, 3))
    adversaries = Adversaries(nn.ModuleList([learner, idle]))
    (report,) = adversaries.learn([(learner, Examples(source, target))], factor=0.5)
    assert source.grad is None and target.grad is None
    copies = [parameter.clone().requires_grad_() for parameter in before]
    logits = [
        torch.func.functional_call(
            learner, dict(zip(dict(learner.named_parameters()), copies, strict=True)), (each.detach(),)
        )
        for each in (source, target)
    ]
    loss = (F.softplus(logits[0]).mean() + F.softplus(-logits[1]).mean()) / 2
    assert report.loss == pytest.approx(loss.item(), abs=1e-6)
    for copied, gradient in zip(copies, torch.autograd.grad(loss, copies), strict=True):
        copied.grad = gradient
    nn.utils.clip_grad_norm_(copies, 1.0)
    torch.optim.Adam(copies, 1e-4 * 0.5, (0.9, 0.99)).step()
    for ours, expected in zip(learner.parameters(), copies, strict=True):
        torch.testing.assert_close(ours, expected.detach())
    assert torch.equal(idle[0].weight, Discriminator(3, generator(1))[0].weight)


def learn_in_a_group(rank: int, folder: str) -> None:
    """One of two processes, with an example of its own; what came of it goes to a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    discriminator = Discriminator(3, generator(), widths=(4, 4, 4, 4))
    maps = [torch.rand(1, 3, 32, 32, generator=generator(seed)) for seed in (2 + rank, 12 + rank)]
    Adversaries(nn.ModuleList([discriminator])).learn([(discriminator, Examples(*maps))], 1.0)
    torch.save(discriminator.state_dict(), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_discriminators_of_several_processes_stay_one(tmp_path: Path) -> None:
    """Each learns from what all see: as one process with both examples, whose mean gradient is the same."""
    torch.multiprocessing.spawn(learn_in_a_group, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    alone = Discriminator(3, generator(), widths=(4, 4, 4, 4))
    both = [
        Examples(*(torch.rand(1, 3, 32, 32, generator=generator(seed)) for seed in (2 + rank, 12 + rank)))
        for rank in (0, 1)
    ]
    merged = Examples(*(torch.cat([getattr(each, name) for each in both]) for name in ("source", "target")))
    Adversaries(nn.ModuleList([alone])).learn([(alone, merged)], 1.0)
    for name, value in alone.state_dict().items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], value, atol=1e-6, rtol=1e-4)


class TwoColours:
    """Squares on a ground, anywhere: the source's are light on dark, the target's are recoloured."""

    def __init__(self) -> None:
        self.random = generator(5)

    def draw(self, count: int, target: bool) -> tuple[Tensor, Tensor]:
        """Pictures [count, 3, 32, 32] and their labels."""
        labels = torch.zeros(count, 32, 32, dtype=torch.long)
        for each in labels:
            top, left = torch.randint(0, 20, (2,), generator=self.random).tolist()
            each[top : top + 12, left : left + 12] = 1
        ground, square = ((0.4, 0.2, 0.5), (0.8, 0.5, 0.9)) if target else ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9))
        colours = torch.tensor([ground, square])[labels].permute(0, 3, 1, 2)
        return colours + 0.15 * torch.randn(colours.shape, generator=self.random), labels


def certainty(scores: Tensor) -> Tensor:
    return entropy_map(scores.softmax(1))


def probabilities(scores: Tensor) -> Tensor:
    return scores.softmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("maps", "weight", "steps"), [(probabilities, 0.0, 90), (probabilities, 0.05, 240), (certainty, 0.02, 90)]
)
def test_two_colours(maps: Callable[[Tensor], Tensor], weight: float, steps: int) -> None:
    """Played against, the discriminator is told less than without, down to about ½, and the squares are still found.

    Among the recoloured ones too where it sees probabilities; one that sees certainty alone can be deceived by being
    sure of the ground everywhere, and is.
    """
    torch.set_num_threads(1)  # the pictures are small: two threads would wait for each other
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(8, 2, 3, padding=1))
    discriminator = Discriminator(2, generator())
    adversaries = Adversaries(nn.ModuleList([discriminator]))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    colours, accuracies = TwoColours(), []
    for step in range(steps):
        (source, labels), (target, _) = colours.draw(4, False), colours.draw(4, True)
        scores, others = network(source), network(target)
        loss = F.cross_entropy(scores, labels) + weight * domain_loss(discriminator(maps(others)), SOURCE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen = Examples(maps(scores), maps(others))
        (report,) = adversaries.learn([(discriminator, seen)], 1 - step / 260)
        accuracies.append(report.accuracy)
    told = sum(accuracies[-20:]) / 20
    assert told > 0.9 if weight == 0 else told < 0.8
    found = []
    for recoloured in (False, True):
        pictures, labels = colours.draw(8, recoloured)
        squares = network(pictures).argmax(1) == 1
        found.append(float((squares & (labels == 1)).sum() / (squares | (labels == 1)).sum()))
    assert found[0] > 0.97
    assert (found[1] > 0.8) == (maps is probabilities)
