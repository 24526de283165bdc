from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from core_models import REFERENCE, OwnLabels, golden_features, golden_name, golden_segmenter
from numpy.typing import NDArray
from torch import Tensor

from ditta_core.adaptation.adapt import adapt
from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import CollapseError, NothingShownError, RefusedError
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, Cancelled
from ditta_core.adaptation.losses import FrameTarget
from ditta_core.adaptation.state import AdaptedState
from ditta_core.adaptation.trainer import DistillationTrainer, NonFiniteLossError
from ditta_core.classes import ClassList
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.base import DistillationTarget, NoTargetError, TargetBuilder
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationFailed

SIZE = (48, 64)


def golden_target(voting: np.lib.npyio.NpzFile, step: int) -> FrameTarget:
    """Objects where they have votes, the model's own class elsewhere."""
    ids, scores = voting[f"out_obj_id{step}"], voting[f"out_score{step}"]
    voted = (ids > 0) & (scores.max(1)[ids] > 0)
    labels = np.where(voted, scores.argmax(1)[ids], voting[f"pred{step}"])
    return FrameTarget(torch.from_numpy(labels), None, None, torch.from_numpy(ids))


def test_golden_steps() -> None:
    golden, voting = (np.load(REFERENCE / f"{name}.npz") for name in ("adaptation_steps", "voting"))
    segmenter = golden_segmenter(golden, "init.", classes=5, radius=2)
    trainer = DistillationTrainer(segmenter, AdaptationConfig.parity(), ((18, 22),))
    for step in range(3):
        losses = trainer.step(golden_features(golden, f"s{step}.c"), golden_target(voting, step))
        assert losses.frame == pytest.approx(float(golden[f"s{step}.loss.distill"]), abs=1e-4)
        assert losses.temporal == pytest.approx(float(golden[f"s{step}.loss.distill_addon"]), abs=1e-4)
        assert losses.contrastive == pytest.approx(float(golden[f"s{step}.loss.contra"]), abs=1e-4)
        assert losses.total == pytest.approx(float(golden[f"s{step}.loss.total"]), abs=1e-4)
    for prefix, model in (("final.", trainer.student), ("final_momentum.", trainer.ema_model)):
        state = model.state_dict()
        for key in (key for key in golden.files if key.startswith(prefix)):
            ours = state[golden_name(key.removeprefix(prefix))].detach()
            np.testing.assert_allclose(ours, golden[key], atol=1e-3, err_msg=key)
    for object_id in (1, 2, 3):
        expected = golden[f"final_prototype.{object_id}"]
        np.testing.assert_allclose(trainer.prototypes.by_object[object_id], expected, atol=1e-4)


def test_moving_average_after_one_step() -> None:
    golden, voting = (np.load(REFERENCE / f"{name}.npz") for name in ("adaptation_steps", "voting"))
    segmenter = golden_segmenter(golden, "init.", classes=5, radius=2)
    before = copy.deepcopy(segmenter)
    trainer = DistillationTrainer(segmenter, AdaptationConfig.parity(), ((18, 22),))
    trainer.step(golden_features(golden, "s0.c"), golden_target(voting, 0))
    for start, student, mean in zip(
        before.parameters(), trainer.student.parameters(), trainer.ema_model.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, start + 0.01 * (student - start), atol=1e-7, rtol=1e-5)


# --- the three stages on a real (random) network ---


class NoTargets(TargetBuilder):
    def build(self, *_: NDArray[np.generic]) -> DistillationTarget:
        raise NoTargetError("expected one reliable pixel, but got none")


def clip_of(frames: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (frames, *SIZE, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])


def random_segmenter() -> TemporalSegmenter:
    torch.manual_seed(0)
    return TemporalSegmenter(ESPNetv2(ClassList.packaged("camvid11")).eval().requires_grad_(False))


CONFIGS = {
    "parity": AdaptationConfig.parity(passes=2),
    "live": AdaptationConfig(passes=2, self_training_steps=0),
    "live with temporal branch": AdaptationConfig(passes=2, temporal_branch=True),
}


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.parametrize("frames", [1, 3])
def test_adapt_trains_the_decoder_and_not_the_encoder(mode: str, frames: int) -> None:
    base = random_segmenter()
    adapted, seen = copy.deepcopy(base), []
    report = adapt(adapted, clip_of(frames), SIZE, OwnLabels(), CONFIGS[mode], seen.append)
    assert report.succeeded and report.steps == 2 * frames == len(seen) and len(report.losses) == 2
    assert seen[-1].fraction == 1.0
    for name, value in adapted.model.encoder.named_parameters():
        assert torch.equal(value, dict(base.model.encoder.named_parameters())[name]), name
    moved = [
        not torch.equal(*pair)
        for pair in zip(adapted.model.decoder_parameters(), base.model.decoder_parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)
    assert not torch.equal(adapted.proj_feat[0].weight, base.proj_feat[0].weight)
    assert torch.equal(adapted.key_layer[0].weight, base.key_layer[0].weight) == (mode == "live" or frames == 1)
    assert not any(parameter.requires_grad for parameter in adapted.parameters()) and not adapted.training


def test_the_past_of_the_step_before_is_that_of_the_frame_before() -> None:
    """While the weights stand still, what the last step left is what decoding both frames gives."""
    losses = []
    for past_gradients in (True, False):
        config = AdaptationConfig(passes=2, learning_rate=1e-12, temporal_branch=True, past_gradients=past_gradients)
        losses.append(adapt(random_segmenter(), clip_of(4), SIZE, OwnLabels(), config).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_mode_needs_past_gradients() -> None:
    with pytest.raises(ValueError, match="expected past_gradients with train_mode"):
        AdaptationConfig.parity(past_gradients=False)


def test_adaptation_does_not_depend_on_the_ones_before() -> None:
    base = random_segmenter()
    results = []
    for _ in range(2):
        adapted = copy.deepcopy(base)
        torch.rand(3)
        adapt(adapted, clip_of(2), SIZE, OwnLabels(), AdaptationConfig.parity(passes=1))
        results.append(adapted.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], msg=name)


def test_statistics_share_moves_statistics_of_the_encoder_alone() -> None:
    base = random_segmenter()
    adapted = copy.deepcopy(base)
    adapt(adapted, clip_of(2), SIZE, OwnLabels(), AdaptationConfig(passes=0, statistics_share=0.5))
    ours, before = adapted.model, base.model
    assert not torch.equal(ours.base_net.level1.bn.running_mean, before.base_net.level1.bn.running_mean)
    assert torch.equal(ours.bu_br_l4[0].running_mean, before.bu_br_l4[0].running_mean)
    assert torch.equal(ours.bu_br_l4[0].running_var, before.bu_br_l4[0].running_var)


def test_cancel() -> None:
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        adapt(random_segmenter(), clip_of(2), SIZE, OwnLabels(), AdaptationConfig(), cancelled=lambda: next(answers))


def test_loss_that_is_not_a_number_stops_before_the_step() -> None:
    segmenter = random_segmenter()
    trainer = DistillationTrainer(segmenter, AdaptationConfig())
    before = copy.deepcopy(segmenter.state_dict())
    features = list(segmenter.model.encode(torch.randn(1, 3, *SIZE)))
    features[0] = features[0] * torch.nan
    labels = torch.zeros(SIZE[0] // 2, SIZE[1] // 2, dtype=torch.long)
    with pytest.raises(NonFiniteLossError, match="finite"):
        trainer.step(features, FrameTarget(labels, None, None, None))
    for name, value in segmenter.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_black_warm_up_fails_with_the_reason() -> None:
    with pytest.raises(NothingShownError, match="2 of 2 are of one colour"):
        adapt(random_segmenter(), 0 * clip_of(2), SIZE, OwnLabels(), AdaptationConfig())


# --- crops ---


def test_a_model_that_decodes_no_crops_is_trained_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AdaptationConfig(passes=2, crop=0.25)
    assert trained_sizes(monkeypatch, config) == [(16, 16)] * 3 + [(24, 32)] * 3  # the last pass is on whole frames
    monkeypatch.setattr(ESPNetv2, "decodes_crops", False)
    assert trained_sizes(monkeypatch, config) == [(24, 32)] * 6


def trained_sizes(monkeypatch: pytest.MonkeyPatch, config: AdaptationConfig) -> list[tuple[int, ...]]:
    """Sizes of the targets of all steps of an adaptation to three frames."""
    sizes, step = [], DistillationTrainer.step

    def spied(trainer: DistillationTrainer, features: Sequence[Tensor], target: FrameTarget, *rest: Any) -> Any:
        sizes.append(tuple(target.labels.shape))
        return step(trainer, features, target, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "step", spied)
        adapt(random_segmenter(), clip_of(3), SIZE, OwnLabels(), config)
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "size"),
    [
        (AdaptationConfig(passes=2, crop=1.0), (24, 32)),
        (AdaptationConfig(passes=2, crop=0.5), (24, 24)),
        (AdaptationConfig(passes=2, temporal_branch=True), (24, 32)),
        (AdaptationConfig(passes=2, full_resolution=True), SIZE),
        (AdaptationConfig.parity(passes=2), SIZE),
    ],
)
def test_what_a_step_trains_on(
    config: AdaptationConfig, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained_sizes(monkeypatch, config)[:3] == [size] * 3


def test_training_on_crops_is_repeatable() -> None:
    states = []
    for _ in range(2):
        adapted = random_segmenter()
        adapt(adapted, clip_of(3), SIZE, OwnLabels(), AdaptationConfig(passes=2))
        states.append(adapted.state_dict())
        torch.rand(3)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


# --- jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """Random weights in a file, as a worker process would load them."""
    path = tmp_path / "random.pth"
    torch.save(random_segmenter().model.state_dict(), path)
    return ModelSource(f"espnetv2:{path}")


@pytest.mark.parametrize("mode", CONFIGS)
def test_job_survives_pickling_and_its_state_fits_the_base(mode: str, source: ModelSource) -> None:
    job = pickle.loads(pickle.dumps(AdaptationJob(clip_of(3), SIZE, source, TeacherConfig("flow"), CONFIGS[mode])))
    seen: list[AdaptationProgress] = []
    result = pickle.loads(pickle.dumps(run_job(job, seen.append)))
    assert result.report.succeeded and result.state is not None and seen
    assert result.state.temporal_branch == (mode != "live")
    base = random_segmenter()
    before = copy.deepcopy(base.state_dict())
    adapted = result.state.apply(base)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items()), "the base was touched"
    changed = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(result.state.tensors)
    assert "model.bu_dec_l4.merge_layer.3.weight" in changed


def test_unchanged_encoder_is_shared() -> None:
    base = random_segmenter()
    state = AdaptedState({"model.bu_br_l4.1.weight": np.full(32, 0.5, np.float32)}, temporal_branch=False)
    adapted = state.apply(base)
    assert adapted.model.encoder is base.model.encoder
    assert adapted.model.bu_br_l4[1].weight.mean() == 0.5 != base.model.bu_br_l4[1].weight.mean()


def test_statistics_of_its_own_cost_no_second_encoder() -> None:
    base = random_segmenter()
    name = next(name for name in base.state_dict() if "base_net" in name and name.endswith("running_mean"))
    before = base.state_dict()[name].clone()
    adapted = AdaptedState({name: np.full(before.shape, 7, np.float32)}, temporal_branch=False).apply(base)
    assert (adapted.state_dict()[name] == 7).all()
    assert torch.equal(base.state_dict()[name], before), "the base was touched"
    unshared = {
        key
        for key, value in adapted.state_dict().items()
        if value.data_ptr() != base.state_dict()[key].data_ptr() and value.numel()
    }
    assert unshared == {name}
    pixels = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert not torch.equal(adapted.model(pixels), base.model(pixels))


def test_mean_of_two_states() -> None:
    base = random_segmenter()
    name, other = "model.bu_br_l4.1.weight", "model.bu_dec_l4.merge_layer.3.weight"
    own = base.state_dict()[other].numpy().copy()
    first = AdaptedState({name: np.full(32, 2, np.float32)}, temporal_branch=True)
    second = AdaptedState({name: np.full(32, 4, np.float32), other: own + 1}, temporal_branch=False)
    mean = first.towards(second, 0.25, base)
    np.testing.assert_allclose(mean.tensors[name], 2.5)
    np.testing.assert_allclose(mean.tensors[other], own + 0.25, rtol=1e-6)
    assert mean.tensors[other].dtype == np.float32
    assert not mean.temporal_branch, "half of it is random"
    mean.apply(base)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        first.towards(second, 1.5, base)


def test_state_of_another_model() -> None:
    with pytest.raises(ValueError, match="tensors of this model"):
        AdaptedState({"model.bu_br_l4.1.weight": np.zeros(7, np.float32)}, False).apply(random_segmenter())


def test_one_frame_leaves_the_temporal_branch_untrained(source: ModelSource) -> None:
    result = run_job(AdaptationJob(clip_of(1), SIZE, source, adaptation=AdaptationConfig(passes=1)))
    assert result.state is not None and not result.state.temporal_branch


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (AdaptationJob(clip_of(1), SIZE, ModelSource("espnetv2:/nowhere.pth")), "does not exist"),
        (AdaptationJob(clip_of(1), SIZE, ModelSource("unknown")), "expected the model"),
        (AdaptationJob(clip_of(1), SIZE, ModelSource(device="abacus")), "expected a torch device"),
    ],
)
def test_failures_end_in_the_report(job: AdaptationJob, reason: str) -> None:
    result = run_job(job)
    assert result.state is None and not result.report.succeeded and reason in result.report.reason


@pytest.mark.parametrize(
    "failure", [NoTargetError, NonFiniteLossError, NothingShownError, RefusedError, CollapseError, Cancelled]
)
def test_every_way_to_fail_is_one_failure(failure: type[Exception]) -> None:
    assert issubclass(failure, AdaptationFailed)


def test_cancelled_job(source: ModelSource) -> None:
    result = run_job(AdaptationJob(clip_of(2), SIZE, source), cancelled=lambda: True)
    assert result.state is None and "cancelled" in result.report.reason


def test_no_target_is_no_adaptation() -> None:
    with pytest.raises(NoTargetError):
        adapt(random_segmenter(), clip_of(2), SIZE, NoTargets(), AdaptationConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"passes": -1},
        {"learning_rate": 0.0},
        {"statistics_share": 1.1},
        {"deployed_share": 1.5},
        {"crop": 0.0},
        {"crop": 1.5},
    ],
)
def test_bad_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        AdaptationConfig(**wrong)


def test_deployed_decoder_lies_between_base_and_trained() -> None:
    base = random_segmenter()
    states = {}
    for share in (0.0, 0.5, 1.0):
        adapted = copy.deepcopy(base)
        adapt(
            adapted,
            clip_of(2),
            SIZE,
            OwnLabels(),
            AdaptationConfig(passes=2, deployed_share=share, kept_share=0.0),
        )
        states[share] = [parameter.clone() for parameter in adapted.model.decoder_parameters()]
    for before, none, half, whole in zip(base.model.decoder_parameters(), *states.values(), strict=True):
        torch.testing.assert_close(none, before)
        torch.testing.assert_close(half, (before + whole) / 2)
    assert any(not torch.equal(none, whole) for none, whole in zip(states[0.0], states[1.0], strict=True))
