from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_models import SIZE, TinyModel, changed, copied, moving_frames

from ditta_core.evaluation.methods.cotta import CoTTAConfig, CoTTALearner, scaled_size

FRAMES = moving_frames(3)
FAST = CoTTAConfig(scales=(0.5, 1.0), momentum=0.9, restore=0.0, learning_rate=1e-2)


def probabilities_of(model: TinyModel, size: tuple[int, int], mirrored: bool) -> torch.Tensor:
    pixels = model.preprocess(FRAMES[0].image[None], size, torch.device("cpu"))
    if mirrored:
        pixels = torch.flip(pixels, [3])
    logits = model.classifier(model.head(model.backbone(pixels)))
    enlarged = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear")
    return torch.flip(enlarged, [3]).softmax(1) if mirrored else enlarged.softmax(1)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
def test_augmentations_decide_where_the_source_is_unsure(confidence: float) -> None:
    model = TinyModel()
    config = CoTTAConfig(confidence=confidence)
    ours = CoTTALearner(model, config, 1).outputs(FRAMES[0], SIZE).exp()
    sizes = [(32, 48), (48, 72), (64, 96), (80, 120), (96, 144), (112, 168), (128, 192)]
    average = torch.cat([probabilities_of(model, size, flip) for size in sizes for flip in (False, True)]).mean(0)
    single = probabilities_of(model, SIZE, mirrored=False)
    sure = single.amax(1, keepdim=True) > confidence
    assert 0 < sure.float().mean() < 1 or confidence != 0.5
    torch.testing.assert_close(ours, torch.where(sure, single, average), atol=1e-5, rtol=1e-4)
    assert (single - average).abs().max() > 0.05


def test_augmentations_are_left_out_where_nothing_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = CoTTALearner(TinyModel(), CoTTAConfig(confidence=0.0), 1)
    monkeypatch.setattr(learner, "augmented", None)
    assert learner.learn(FRAMES[0], SIZE).outputs.shape == (1, 5, *SIZE)


def test_teacher_is_the_moving_average_of_the_student() -> None:
    learner = CoTTALearner(TinyModel(), FAST, 1)
    expected = copied(learner.source)
    for frame in FRAMES:
        learner.learn(frame, SIZE)
        for name, value in learner.student.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * value.detach()
    trained = {name for name, _ in learner.student.named_parameters()}
    assert changed(copied(learner.source), copied(learner.student)) == trained  # all weights, no statistics
    for name, value in learner.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_student_learns_the_label_of_the_teacher() -> None:
    learner = CoTTALearner(TinyModel(), replace(FAST, momentum=1.0), 1)
    results = [learner.learn(FRAMES[0], SIZE) for _ in range(15)]
    label = results[0].outputs.argmax(1)
    for result in results:
        assert torch.equal(result.outputs.argmax(1), label)  # a teacher that does not move
    assert results[-1].loss < 0.7 * results[0].loss


def test_restoring_everything_gives_the_source_back() -> None:
    learner = CoTTALearner(TinyModel(), replace(FAST, restore=1.0), 1)
    learner.learn(FRAMES[0], SIZE)
    assert not changed(copied(learner.source), copied(learner.student))
    assert changed(copied(learner.source), copied(learner.teacher))  # averaged before the restoring


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_share_of_restored_weights_is_the_probability() -> None:
    learners = [CoTTALearner(TinyModel(), replace(FAST, restore=restore), 1) for restore in (0.0, 0.3)]
    for learner in learners:
        learner.learn(FRAMES[0], SIZE)
    kept, restored = (flat(learner.student) for learner in learners)
    source = flat(learners[0].source)
    moved = kept != source
    back = restored[moved] == source[moved]
    assert torch.equal(restored[moved][~back], kept[moved][~back])
    share = back.float().mean().item()
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / len(back)))


@pytest.mark.parametrize(
    ("size", "scale", "multiple", "expected"),
    [((480, 640), 1.0, 16, (480, 640)), ((480, 640), 1.75, 16, (832, 1120)), ((64, 64), 0.1, 32, (32, 32))],
)
def test_scaled_sizes_suit_the_model(
    size: tuple[int, int], scale: float, multiple: int, expected: tuple[int, int]
) -> None:
    assert scaled_size(size, scale, multiple) == expected
