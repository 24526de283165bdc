"""The driver: what it trains, deploys, refuses, keeps and goes on with, whatever the recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drives import ColourModel, PanningDrive, accuracy

from ditta_core.adaptation.job import Cancelled
from ditta_core.datasets.names import DataWarning
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress, OfflineResult, adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch, Losses, PseudoLabels, Recipe
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.domain.recipes.self_training import SelfTraining
from ditta_core.domain.training_state import TrainingStateError

SIZE = (96, 128)
CONFIG = OfflineConfig(steps=6, window=(48, 64), learning_rate=1e-3, guarded=False, deployed_share=1.0)


@pytest.fixture(scope="module")
def drive() -> DriveFrames:
    return read_drives([PanningDrive(20, noise=10)], SIZE, 100)


def adapted(model: ColourModel, result: OfflineResult) -> ColourModel:
    """A copy with the tensors of a result."""
    copy = ColourModel()
    copy.load_state_dict(
        {**model.state_dict(), **{name: torch.from_numpy(each) for name, each in result.tensors.items()}}
    )
    return copy


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.needs_source])
def test_every_recipe_trains_and_says_what_it_did(name: str, drive: DriveFrames) -> None:
    model = ColourModel()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told: list[OfflineProgress] = []
    result = adapt_offline(model, RECIPES[name], drive, replace(CONFIG, train="all"), progress=told.append)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # the base is left alone
    changed = set(result.tensors)
    assert "last.weight" in changed and "stem.0.weight" in changed and "stem.1.running_mean" in changed
    report = result.report
    assert report.steps == 6 and report.frames == 18 and report.held_out == 2
    assert report.reason == "adapted" and report.deployed_share == 1 and report.statistics_share == 0.3
    assert len(report.labelled) == len(report.thresholds) == RECIPES[name].rounds
    assert all(0.2 < share < 0.9 for share in report.labelled)
    steps = [each for each in told if each.phase == "steps"]
    assert [each.done for each in steps] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert all(np.isfinite(list(each.losses.values())).all() for each in steps)
    assert report.losses[-1][0] == 6 and report.losses[0][1].keys() == steps[0].losses.keys()


def without_scales_and_shifts() -> ColourModel:
    model = ColourModel()
    model.stem[1] = torch.nn.BatchNorm2d(model.stem[1].num_features, affine=False)
    return model.eval()


def test_a_decoder_alone(drive: DriveFrames) -> None:
    config = OfflineConfig(**{**vars(CONFIG), "train": "decoder", "statistics_share": 0.0})
    result = adapt_offline(ColourModel(), SelfTraining, drive, config)
    assert set(result.tensors) == {"neck.weight", "neck.bias", "last.weight", "last.bias"}


def test_scales_and_shifts_alone(drive: DriveFrames) -> None:
    config = OfflineConfig(**{**vars(CONFIG), "train": "normalisation", "statistics_share": 0.0, "learning_rate": None})
    result = adapt_offline(ColourModel(), SelfTraining, drive, config)
    assert set(result.tensors) == {"stem.1.weight", "stem.1.bias"} and result.report.trained == "normalisation"
    with pytest.raises(ValueError, match="expected a model whose BatchNorm has scales and shifts to train"):
        adapt_offline(without_scales_and_shifts(), SelfTraining, drive, config)


def test_the_first_step_has_the_rate_of_what_is_trained(drive: DriveFrames) -> None:
    """Adam's first step moves every weight by the learning rate."""
    start = ColourModel().state_dict()
    for train, name, rate in (("normalisation", "stem.1.bias", 1e-3), ("decoder", "last.bias", 1e-4)):
        config = OfflineConfig(steps=1, window=(48, 64), train=train, guarded=False, deployed_share=1.0)
        after = adapt_offline(ColourModel(), SelfTraining, drive, config).tensors[name]
        assert np.abs(after - start[name].numpy()).max() == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("name", "has_scales", "trained"),
    [("ur", True, "normalisation"), ("ur", False, "all"), ("self_training", True, "all"), ("stpl", True, "all")],
)
def test_what_a_recipe_trains_by_itself(drive: DriveFrames, name: str, has_scales: bool, trained: str) -> None:
    model = ColourModel() if has_scales else without_scales_and_shifts()
    config = OfflineConfig(steps=2, window=(48, 64), guarded=False)
    result = adapt_offline(model, RECIPES[name], drive, config)
    assert result.report.trained == trained and result.report.deployed_share == 0.3
    assert ("last.weight" in result.tensors) == (trained == "all")


def test_without_steps_the_statistics_are_what_is_left(drive: DriveFrames) -> None:
    result = adapt_offline(ColourModel(), SelfTraining, drive, OfflineConfig(steps=0))
    assert set(result.tensors) == {"stem.1.running_mean", "stem.1.running_var"}
    assert result.report.deployed_share == 0 and result.report.losses == ()


def test_the_deployed_weights_lie_between(drive: DriveFrames) -> None:
    whole, half, none = (
        adapt_offline(ColourModel(), SelfTraining, drive, OfflineConfig(**{**vars(CONFIG), "deployed_share": share}))
        for share in (1.0, 0.5, 0.0)
    )
    start = ColourModel().last.weight.numpy()
    np.testing.assert_allclose(half.tensors["last.weight"], (start + whole.tensors["last.weight"]) / 2, atol=1e-6)
    assert "last.weight" not in none.tensors


def test_the_same_seed_gives_the_same_weights(drive: DriveFrames) -> None:
    one, other = (adapt_offline(ColourModel(), RECIPES["ur"], drive, CONFIG) for _ in range(2))
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    third = adapt_offline(ColourModel(), RECIPES["ur"], drive, OfflineConfig(**{**vars(CONFIG), "seed": 7}))
    assert not np.array_equal(one.tensors["stem.1.weight"], third.tensors["stem.1.weight"])


@pytest.mark.parametrize("name", ["ur", "stpl", "hcl"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(name: str, drive: DriveFrames, tmp_path: Path) -> None:
    config = OfflineConfig(**{**vars(CONFIG), "rounds": 2})
    whole = adapt_offline(ColourModel(), RECIPES[name], drive, config)
    file, steps = tmp_path / "state.safetensors", 0

    def count(told: OfflineProgress) -> None:
        nonlocal steps
        steps = told.step

    for _ in range(2):
        begun = steps
        with pytest.raises(Cancelled, match="the same command goes on with it"):
            adapt_offline(
                ColourModel(), RECIPES[name], drive, config, None, file, count, lambda begun=begun: steps - begun >= 2
            )
        assert file.is_file()
    resumed = adapt_offline(ColourModel(), RECIPES[name], drive, config, None, file, count)
    assert resumed.report.steps == 6
    for key, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[key], value)
    assert len(resumed.report.labelled) == 2 and resumed.report.labelled == whole.report.labelled
    assert resumed.report.losses == whole.report.losses


def test_the_steps_before_labels_are_made_again_are_kept(drive: DriveFrames, tmp_path: Path) -> None:
    class Interrupted(SelfTraining):
        def label(self, drive: DriveFrames, number: int) -> PseudoLabels | None:
            if number:
                raise KeyboardInterrupt
            return super().label(drive, number)

    file, told = tmp_path / "state.safetensors", []
    config = replace(CONFIG, rounds=2)
    with pytest.raises(KeyboardInterrupt):
        adapt_offline(ColourModel(), Interrupted, drive, config, None, file, told.append)
    made = max(each.step for each in told)
    assert made >= 2
    Interrupted.label = SelfTraining.label  # type: ignore[method-assign]
    again: list[OfflineProgress] = []
    adapt_offline(ColourModel(), Interrupted, drive, config, None, file, again.append)
    assert min(each.step for each in again) == made


def test_a_state_of_something_else_is_refused(drive: DriveFrames, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Cancelled):
        adapt_offline(ColourModel(), SelfTraining, drive, CONFIG, None, file, cancelled=lambda: True)
    other = OfflineConfig(**{**vars(CONFIG), "portion": 0.3})
    with pytest.raises(TrainingStateError, match="other drives, another model or other settings; give the same"):
        adapt_offline(ColourModel(), SelfTraining, drive, other, None, file)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'\\"format\\": \\"2\\"', b'\\"format\\": \\"1\\"'))
    with pytest.raises(TrainingStateError, match=r"written by another version of this package; .*--fresh"):
        adapt_offline(ColourModel(), SelfTraining, drive, CONFIG, None, file)
    for content in (b"", b"nonsense", whole[:400]):
        file.write_bytes(content)
        with pytest.raises(TrainingStateError, match=r"damaged or something else.*--fresh"):
            adapt_offline(ColourModel(), SelfTraining, drive, CONFIG, None, file)


class Diverging(SelfTraining):
    """A recipe whose loss is not finite from the fourth step on."""

    def loss(self, batch: Batch) -> Losses:
        return {name: term * (float("nan") if batch.step > 3 else 1) for name, term in super().loss(batch).items()}


def test_losses_that_are_not_finite_end_with_the_last_good_weights(drive: DriveFrames) -> None:
    result = adapt_offline(ColourModel(), Diverging, drive, CONFIG)
    assert "the training ended at step 4 with losses labels nan and a gradient of norm nan" in result.report.reason
    assert "lower the learning rate" in result.report.reason and result.report.steps == 4
    assert all(np.isfinite(value).all() for value in result.tensors.values())


def test_a_resumed_training_that_diverges_keeps_what_it_began_with(drive: DriveFrames, tmp_path: Path) -> None:
    file, steps = tmp_path / "state", 0

    def count(told: OfflineProgress) -> None:
        nonlocal steps
        steps = told.step

    with pytest.raises(Cancelled):
        adapt_offline(ColourModel(), Diverging, drive, CONFIG, None, file, count, lambda: steps == 4)
    result = adapt_offline(ColourModel(), Diverging, drive, CONFIG, None, file)
    assert result.report.reason.endswith("the weights of step 4 are what is written")
    statistics = adapt_offline(ColourModel(), Diverging, drive, replace(CONFIG, steps=0))
    assert set(statistics.tensors) < set(result.tensors), "four steps were made"


def test_a_state_that_cannot_be_written_ends_no_training(
    drive: DriveFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditta_core.domain.driver.SAVE_EVERY", 0.0)
    (tmp_path / "file").write_text("no folder")
    state = tmp_path / "file" / "state"
    with pytest.warns(DataWarning, match="the training goes on, but an interruption would lose it: expected to write"):
        assert adapt_offline(ColourModel(), SelfTraining, drive, CONFIG, None, state).report.steps == 6
    with pytest.raises(OSError, match=r"expected to write .* bytes to .*state, but got: "):
        adapt_offline(ColourModel(), SelfTraining, drive, CONFIG, None, state, cancelled=lambda: True)


class Collapsing(Recipe):
    """A recipe that makes everything of the first class."""

    def loss(self, batch: Batch) -> Losses:
        return {"first": -self.scores(self.embed(batch.target.images), (24, 32)).log_softmax(1)[:, 0].mean()}


def test_a_collapse_is_refused(drive: DriveFrames) -> None:
    config = OfflineConfig(steps=30, window=(48, 64), learning_rate=0.05, deployed_share=1.0)
    result = adapt_offline(ColourModel(), Collapsing, drive, config)
    assert result.report.refused and result.report.deployed_share == 0
    assert "with 30% of the drives' statistics, is what is written" in result.report.reason
    assert set(result.tensors) == {"stem.1.running_mean", "stem.1.running_var"}


class NeedsSource(SelfTraining):
    """A recipe that learns from labels of a source too."""

    needs_source = True

    def loss(self, batch: Batch) -> Losses:
        assert batch.source is not None and batch.source.labels is not None
        scores = self.scores(self.embed(batch.source.images[-1:]), batch.source.labels.shape[-2:])
        labels = batch.source.labels[-1:]
        return {**super().loss(batch), "source": torch.nn.functional.cross_entropy(scores, labels, ignore_index=255)}


def test_a_recipe_with_a_source(drive: DriveFrames) -> None:
    model = ColourModel()
    with pytest.raises(ValueError, match=r"expected a labelled source for NeedsSource.*give --source"):
        adapt_offline(model, NeedsSource, drive, CONFIG)
    source = read_drives([PanningDrive(10, seed=3)], SIZE, 100, classes=model.classes)
    result = adapt_offline(model, NeedsSource, drive, CONFIG, source)
    assert set(result.report.losses[0][1]) == {"labels", "source"}


def test_self_training_repairs_a_damaged_classifier(drive: DriveFrames) -> None:
    """Learned from nothing but the drive: a mechanism that goes the wrong way would show."""
    target = PanningDrive(20, noise=10)
    model = ColourModel()
    config = OfflineConfig(steps=120, window=(64, 64), learning_rate=3e-3, guarded=False, deployed_share=1.0)
    before = accuracy(model, target)
    after = accuracy(adapted(model, adapt_offline(model, RECIPES["vst"], drive, config)), target)
    assert after > before + 0.01


def test_the_schedule_ends_after_minutes(drive: DriveFrames) -> None:
    config = OfflineConfig(steps=10**6, minutes=0.02, window=(48, 64), guarded=False)
    report = adapt_offline(ColourModel(), SelfTraining, drive, config).report
    assert 0 < report.steps < 10**6 and 1 < report.seconds < 20
