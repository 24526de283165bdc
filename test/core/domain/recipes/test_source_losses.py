"""Golden numbers and invariants of the losses of the methods with a source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_waves import LABELS, LOGITS, OTHERS, P, Q, class_thresholds, wave
from drives import ColourModel, PanningDrive

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch
from ditta_core.domain.recipes.da_stc import class_answers, mean_discrepancy
from ditta_core.domain.recipes.da_vsn import paired, unsure_from_sure
from ditta_core.domain.recipes.fda import CAP, LABELLED, robust_entropy
from ditta_core.domain.recipes.pixmatch import PixMatch, cut_in, cut_in_labels, draw_part, in_pixels, zoom
from ditta_core.domain.recipes.rda import RDA, hurting_most, inconsistency
from ditta_core.domain.recipes.tps import TPS, carried_labels, followed
from ditta_core.domain.sampling import ClipSampler

# --- TPS -------------------------------------------------------------------------------------------------------------


def sliding(step: float) -> torch.Tensor:
    """Flow x = step · column, float [1, 4, 6, 2]."""
    flow = torch.zeros(1, 4, 6, 2, dtype=torch.float64)
    flow[..., 0] = step * torch.arange(6)
    return flow


def test_golden_labels_of_tps() -> None:
    flow = torch.tensor([0.5, 0.25], dtype=torch.float64).expand(1, 4, 6, 2)
    labels, inside = carried_labels(P, flow)
    golden = [3, 0, 2, 4, 4, 1, 3, 3, 0, 2, 4, 4, 1, 3, 3, 0, 2, 4, 1, 1, 3, 0, 0, 2]
    assert labels.flatten().tolist() == golden
    assert inside.all()  # half a pixel beyond the last centre is still the last pixel


def test_golden_share_of_right_labels_under_the_published_fault() -> None:
    right, _ = carried_labels(P, sliding(0.3))
    wrong, _ = carried_labels(P, sliding(0.3), wrongly_mirrored=True)
    assert (right == wrong).double().mean().item() == pytest.approx(0.375)


def test_a_mirrored_pair_with_its_flow_negated_gives_the_mirrored_labels() -> None:
    flow = sliding(0.3)
    mirrored = flow.flip(2) * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    labels, inside = carried_labels(P, flow)
    others, theirs = carried_labels(P.flip(-1), mirrored)
    assert torch.equal(others.flip(-1), labels) and torch.equal(theirs.flip(-1), inside)


def test_labels_of_tps_are_of_the_frame_before_where_it_can_be_followed() -> None:
    drive = read_drives([PanningDrive(12, (96, 128), step=4)], (96, 128), 100)
    model = ColourModel()
    recipe = TPS(model, OfflineConfig(window=(64, 96)), torch.Generator().manual_seed(0))
    clip = ClipSampler(drive, None, model, recipe.config, 2, False).draw(np.random.default_rng(1))
    labels = recipe.label_last(Batch(clip, None, 0, 0.0, np.random.default_rng(0)))
    labelled = labels != 255
    assert 0.5 < labelled.float().mean() < 1 and not (labelled & ~followed(clip)).any()
    with torch.no_grad():
        now = recipe.predict(clip.plain[-1], clip).argmax(1)
    assert (labels == now)[labelled].float().mean() > 0.9


# --- FDA -------------------------------------------------------------------------------------------------------------


def test_golden_robust_entropy() -> None:
    assert robust_entropy(P).mean().item() == pytest.approx(0.207559, abs=1e-6)


def test_golden_threshold_of_fda() -> None:
    assert int((LABELS == 3).sum()) == 7
    assert class_thresholds(P, LABELLED, CAP)[3].item() == pytest.approx(0.598669, abs=1e-6)


# --- PixMatch --------------------------------------------------------------------------------------------------------


def test_parts_of_picture_and_labels_are_the_same() -> None:
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 200, (1, 12, 16)))
    image = labels[0].numpy().astype(np.uint8).repeat(2, 0).repeat(2, 1)[..., None].repeat(3, 2)
    for _ in range(10):
        part = draw_part(random, (12, 16), 0.2)
        rows, columns = part
        assert 0 <= rows.start < rows.stop <= 12 and 0 <= columns.start < columns.stop <= 16
        assert (rows.stop - rows.start) * (columns.stop - columns.start) >= 0.15 * 12 * 16
        assert np.array_equal(image[in_pixels(part)][::2, ::2, 0], labels[0][part].numpy())
    whole = slice(0, 12), slice(0, 16)
    seen, wanted = zoom(image, labels, whole)
    assert np.array_equal(seen, image) and torch.equal(wanted, labels)
    half = slice(4, 10), slice(8, 16)
    _, wanted = zoom(image, labels, half)
    assert torch.equal(wanted, labels[:, 4:10, 8:16].repeat_interleave(2, 1).repeat_interleave(2, 2))
    other = np.zeros_like(image)
    mixed, mixed_labels = cut_in(other, image, half), cut_in_labels(torch.zeros_like(labels), labels, half)
    assert np.array_equal(mixed[::2, ::2, 0], mixed_labels[0].numpy()) and int(mixed_labels[0, 4, 8]) == labels[0, 4, 8]


def test_pixmatch_shows_the_source_in_the_colours_of_the_target_but_not_as_published() -> None:
    """The target is darker by half: so is the source that the model learns from, its places unmoved."""
    model = ColourModel()
    clips = []
    for seed, gain, classes in ((0, 0.5, None), (3, 1.0, model.classes)):
        frames = read_drives([PanningDrive(12, seed=seed, gain=gain)], (96, 128), 100, classes=classes)
        sampler = ClipSampler(frames, frames.labels, model, OfflineConfig(window=(64, 96)), 1, False)
        clips.append(sampler.draw(np.random.default_rng(1)))
    target, source = clips
    seen = {}
    for published in (False, True):
        recipe = PixMatch(model, OfflineConfig(published=published), torch.Generator().manual_seed(0))
        shown: list[np.ndarray] = []
        predict = recipe.predict
        recipe.predict = lambda image, clip, shown=shown, predict=predict: (shown.append(image), predict(image, clip))[
            1
        ]
        recipe.loss(Batch(target, source, 0, 0.0, np.random.default_rng(0)))
        seen[published] = shown[-1].astype(float)
    assert np.array_equal(seen[True], source.plain[-1])
    assert seen[False].mean() == pytest.approx(target.plain[-1].mean(), rel=0.02)
    assert seen[False].mean() < 0.7 * seen[True].mean()
    for before, after in zip(seen[True].reshape(-1, 3).T, seen[False].reshape(-1, 3).T, strict=True):
        assert len(np.unique(np.stack([before, after]), axis=1).T) == len(np.unique(before)), "a table of values"


# --- DA-VSN ----------------------------------------------------------------------------------------------------------


def test_golden_consistency_of_da_vsn() -> None:
    loss, surer = unsure_from_sure(P, Q, torch.ones(1, 4, 6, dtype=torch.bool))
    assert surer.double().mean().item() == pytest.approx(0.75) and loss.item() == pytest.approx(0.174748, abs=1e-6)


def test_what_is_unknown_in_the_frame_before_teaches_nothing() -> None:
    loss, surer = unsure_from_sure(P, Q, torch.zeros(1, 4, 6, dtype=torch.bool))
    assert loss == 0 and not surer.any()


def test_golden_joint_softmax_of_da_vsn() -> None:
    joint = paired(LOGITS, OTHERS, jointly=True)
    assert joint[:, :5].sum(1).mean().item() == pytest.approx(0.492726, abs=1e-6)
    assert joint[0, 0, 0, 0].item() == pytest.approx(0.074255, abs=1e-6)
    torch.testing.assert_close(paired(LOGITS, OTHERS), torch.cat([P, Q], 1))


# --- RDA -------------------------------------------------------------------------------------------------------------


def test_nine_components_are_swapped_and_none_of_the_protected() -> None:
    gradient = torch.rand(3, 32, generator=torch.Generator().manual_seed(0))
    chosen = hurting_most(gradient)
    assert chosen.sum() == 9 and chosen[:, 2:16].sum() == 0
    left = gradient.clone()
    left[:, 2:16] = 0
    assert left[chosen == 0].max() < gradient[chosen == 1].min()


def test_an_attack_with_the_picture_itself_is_none_and_one_with_another_hurts() -> None:
    drive = PanningDrive(2, (64, 96))
    other = PanningDrive(1, (64, 96), seed=9, gain=0.5)
    recipe = RDA(ColourModel(), OfflineConfig(), torch.Generator().manual_seed(0))
    pixels, reference = (
        recipe.model.preprocess(each.image(0)[None], (64, 96), recipe.device) for each in (drive, other)
    )
    clean = recipe.answer(pixels, (32, 48))
    same = recipe.attacked(pixels, pixels, clean)
    torch.testing.assert_close(same, pixels, atol=1e-4, rtol=1e-4)
    hurt = inconsistency(recipe.answer(recipe.attacked(pixels, reference, clean), (32, 48)), clean)
    assert hurt > 10 * inconsistency(recipe.answer(same, (32, 48)), clean)


# --- DA-STC ----------------------------------------------------------------------------------------------------------


def test_golden_mean_discrepancy() -> None:
    one, other = wave((5, 5), 0.6, 0.2, 1), wave((5, 5), 0.8, 0.4, 1)
    assert mean_discrepancy(one, other).item() == pytest.approx(0.959880, abs=1e-6)
    assert mean_discrepancy(one, one).item() == pytest.approx(0, abs=1e-12)


def test_gradient_of_the_mean_discrepancy() -> None:
    """The bandwidth is taken as given: there the gradient is that of the kernels alone, downhill in a small step."""
    one, other = (wave((4, 3), a, 0.2, 1).requires_grad_(True) for a in (0.6, 0.8))
    loss = mean_discrepancy(one, other)
    (gradient,) = torch.autograd.grad(loss, one)
    assert mean_discrepancy(one - 1e-3 * gradient, other) < loss


def test_mean_answers_of_classes_by_brute_force() -> None:
    labels = LABELS.clone()
    labels[0, 0] = 255
    found = class_answers(LOGITS, labels)
    for index in range(5):
        places = (labels[0] == index).nonzero().tolist()
        if len(places) < 5:
            assert index not in found
            continue
        mean = sum(LOGITS[0, :, row, column] for row, column in places) / len(places)
        torch.testing.assert_close(found[index], mean)
    assert found and 255 not in found
