"""All methods with a labelled source: they train, refuse to begin without one, and go on where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drives import ColourModel, PanningDrive, accuracy

from ditta_core.adaptation.job import Cancelled
from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.driver import OfflineProgress, adapt_offline
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipes.registry import RECIPES
from ditta_core.domain.training_state import TrainingStateError

SIZE = (96, 128)
CONFIG = OfflineConfig(steps=10, window=(64, 64), learning_rate=1e-3, guarded=False)
WITH_SOURCE = [name for name, recipe in RECIPES.items() if recipe.needs_source]
TERMS = {
    "source_only": {"source"},
    "tps": {"source", "target"},
    "fda": {"source", "entropy", "labels"},
    "pixmatch": {"source", "light", "fourier", "mixed"},
    "da_vsn": {"source", "consistency", "in time", "in space"},
    "vat": {"source", "sequence"},
    "rda": {"source", "deceived", "deceived by the attacked", "consistency"},
    "da_stc": {"source", "target", "mixed target", "mixed source", "alignment"},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The pictures are small: two threads would wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def drive() -> DriveFrames:
    return read_drives([PanningDrive(20, noise=10, gain=0.6)], SIZE, 100)


@pytest.fixture(scope="module")
def source() -> DriveFrames:
    return read_drives([PanningDrive(12, seed=3)], SIZE, 100, classes=ColourModel().classes)


def test_they_are_the_published_ones_and_the_row_to_beat() -> None:
    assert set(WITH_SOURCE) == set(TERMS)


@pytest.mark.parametrize(
    ("name", "published"),
    [*((name, False) for name in TERMS), *((name, True) for name in ("tps", "pixmatch", "da_vsn", "rda"))],
)
def test_every_recipe_trains_with_all_its_terms(
    name: str, published: bool, drive: DriveFrames, source: DriveFrames
) -> None:
    told: list[OfflineProgress] = []
    config = replace(CONFIG, published=published)
    result = adapt_offline(ColourModel(), RECIPES[name], drive, config, source, progress=told.append)
    assert result.report.steps == 10 and result.report.reason == "adapted"
    assert {"stem.0.weight", "last.weight", "stem.1.running_mean"} <= set(result.tensors)
    last = [each for each in told if each.phase == "steps"][-1].losses
    assert set(last) == TERMS[name] and all(np.isfinite(list(last.values()))), last
    assert last["source"] > 0


@pytest.mark.parametrize("name", TERMS)
def test_without_a_source_they_refuse_with_the_remedy(name: str, drive: DriveFrames) -> None:
    with pytest.raises(ValueError, match=r"expected a labelled source for .*, but got none; give --source"):
        adapt_offline(ColourModel(), RECIPES[name], drive, CONFIG)


@pytest.mark.parametrize("name", ["da_vsn", "da_stc"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    name: str, drive: DriveFrames, source: DriveFrames, tmp_path: Path
) -> None:
    whole = adapt_offline(ColourModel(), RECIPES[name], drive, CONFIG, source)
    file, steps = tmp_path / "state.safetensors", 0

    def count(told: OfflineProgress) -> None:
        nonlocal steps
        steps = told.step

    with pytest.raises(Cancelled):
        adapt_offline(ColourModel(), RECIPES[name], drive, CONFIG, source, file, count, lambda: steps >= 5)
    resumed = adapt_offline(ColourModel(), RECIPES[name], drive, CONFIG, source, file, count)
    for key, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[key], value, err_msg=key)


def test_a_training_with_other_labels_of_the_source_does_not_go_on(
    drive: DriveFrames, source: DriveFrames, tmp_path: Path
) -> None:
    """The same images, and one pixel of another class."""
    file, calls = tmp_path / "state.safetensors", iter(range(10))
    with pytest.raises(Cancelled):
        adapt_offline(ColourModel(), RECIPES["fda"], drive, CONFIG, source, file, cancelled=lambda: next(calls) >= 2)
    assert source.labels is not None
    labels = source.labels.copy()
    labels[3, 5, 7] = (labels[3, 5, 7] + 1) % 3
    other = replace(source, labels=labels)
    with pytest.raises(TrainingStateError, match="of other drives, another model or other settings"):
        adapt_offline(ColourModel(), RECIPES["fda"], drive, CONFIG, other, file)
    assert adapt_offline(ColourModel(), RECIPES["fda"], drive, CONFIG, source, file).report.steps == CONFIG.steps


@pytest.mark.parametrize("name", ["tps", "rda", "da_stc"])
def test_a_decoder_alone(name: str, drive: DriveFrames, source: DriveFrames) -> None:
    config = replace(CONFIG, train="decoder", statistics_share=0.0, steps=3)
    result = adapt_offline(ColourModel(), RECIPES[name], drive, config, source)
    assert set(result.tensors) == {"neck.weight", "neck.bias", "last.weight", "last.bias"}


@pytest.mark.parametrize("name", ["source_only", "tps", "fda", "pixmatch"])
def test_what_the_source_teaches_is_learned(name: str, drive: DriveFrames, source: DriveFrames) -> None:
    """A model that mistakes red for green is put right by the source, on the darker target too."""
    model = ColourModel()
    with torch.no_grad():
        model.last.weight[:2] = model.last.weight[:2].flip(0)
    target = PanningDrive(6, SIZE, noise=10, gain=0.6)
    assert accuracy(model, target) < 0.6
    config = replace(CONFIG, steps=40, learning_rate=2e-2)
    result = adapt_offline(model, RECIPES[name], drive, config, source)
    model.load_state_dict(
        {**model.state_dict(), **{name: torch.from_numpy(each) for name, each in result.tensors.items()}}
    )
    assert accuracy(model, target) > 0.85


def test_what_the_source_puts_right_is_deployed_whole_and_not_refused(source: DriveFrames) -> None:
    """True labels may change more of what the model was sure of than its own may."""
    drive = read_drives([PanningDrive(20)], SIZE, 100)
    config = OfflineConfig(steps=5, window=(64, 64))
    result = adapt_offline(ColourModel(), RECIPES["source_only"], drive, config, source)
    assert not result.report.refused and result.report.deployed_share == 1
    assert RECIPES["source_only"].most_contradicted > RECIPES["ur"].most_contradicted
    assert RECIPES["ur"].deployed_share == 0.3


def test_a_target_that_nothing_can_be_followed_in_is_learned_frame_by_frame(source: DriveFrames) -> None:
    """Stills: every frame is of another place."""
    stills = [PanningDrive(1, seed=seed) for seed in range(10, 24)]
    drive = read_drives(stills, SIZE, 100)
    result = adapt_offline(ColourModel(), RECIPES["tps"], drive, CONFIG, source)
    assert not result.report.moving and result.report.losses[-1][1]["target"] > 0
