"""VST and STPL: labels along time beat those of single frames; the fused model begins as the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drives import ColourModel, PanningDrive

from ditta_core.domain.config import OfflineConfig
from ditta_core.domain.frames import DriveFrames
from ditta_core.domain.labelling import TimePredictor, ViewPredictor, label_drive, spread_pieces
from ditta_core.domain.reading import read_drives
from ditta_core.domain.recipe import Batch, NothingLabelledError
from ditta_core.domain.recipes.vst import STPL
from ditta_core.domain.sampling import ClipSampler
from ditta_core.teacher.dense_flow import Link

SIZE = (96, 128)


class NoisyModel(ColourModel):
    """Sharper than the colour model, so that noise in the image becomes noise in the labels."""

    def classify_outputs(self, embedding: torch.Tensor) -> torch.Tensor:
        return 3 * super().classify_outputs(embedding)


@pytest.fixture(scope="module")
def pan() -> PanningDrive:
    return PanningDrive(16, SIZE, step=4, noise=45)


def errors(drive: DriveFrames, pan: PanningDrive, labels: np.ndarray) -> tuple[float, float]:
    """Share of wrong ones among the labels, and share of labelled pixels."""
    truth = np.stack([pan.labels(index)[::2, ::2] for index in range(len(drive))])
    kept = labels != 255
    return float((labels != truth)[kept].mean()), float(kept.mean())


def exact(drive: DriveFrames, step: float) -> DriveFrames:
    """The same drive with the flow that a pan has: known, not estimated; in pixels of label maps."""
    for frame in range(len(drive) - 1):
        for here, there, way in ((frame, frame + 1, -step), (frame + 1, frame, step)):
            flow = np.zeros((*drive.map_size, 2), np.float32)
            flow[..., 0] = way
            columns = np.arange(drive.map_size[1]) + way
            inside = (columns >= 0) & (columns <= drive.map_size[1] - 1)
            drive._links[here, there] = Link(flow, np.broadcast_to(inside, drive.map_size).copy())
    return drive


@pytest.mark.parametrize("flow", ["exact", "estimated"])
def test_labels_gathered_along_time_beat_those_of_single_frames(flow: str) -> None:
    pan = PanningDrive(16, SIZE, step=4, noise=80)
    drive = read_drives([pan], SIZE, 100)
    if flow == "exact":
        drive = exact(drive, 2.0)
    model = NoisyModel()
    single = label_drive(drive, ViewPredictor(model), 0.9, by_margin=False)
    gathered = label_drive(drive, TimePredictor(ViewPredictor(model)), 0.9, by_margin=False)
    wrong, share = errors(drive, pan, single.labels)
    wrong_gathered, share_gathered = errors(drive, pan, gathered.labels)
    assert share_gathered > 0.9 * share
    assert wrong > 0.1 and wrong_gathered < 0.04


def test_without_motion_labels_are_those_of_the_weighted_mean(pan: PanningDrive) -> None:
    drive = exact(read_drives([pan], SIZE, 100), 0.0)
    single = ViewPredictor(NoisyModel())
    predictions = list(TimePredictor(single, reach=1).predict(drive, range(3)))
    from ditta_core.inference.reliability import reliability

    maps = torch.cat([single.probabilities(drive, frame) for frame in range(3)])
    weights = reliability(maps)[:, None]
    mean = (maps * weights).sum(0) / weights.sum(0)
    torch.testing.assert_close(predictions[1].probabilities[0], mean, atol=1e-5, rtol=1e-4)


def test_pixels_that_the_frames_disagree_on_are_not_labelled(pan: PanningDrive) -> None:
    drive = exact(read_drives([pan], SIZE, 100), 0.0)  # a wrong flow: the camera did move
    predictions = list(TimePredictor(ViewPredictor(NoisyModel())).predict(drive, range(7)))
    assert 0.05 < float((~predictions[3].allowed).float().mean()) < 0.6


def test_a_drive_without_flow_is_labelled_frame_by_frame(pan: PanningDrive) -> None:
    drive = read_drives([pan], SIZE, 100)
    for stretch in drive.stretches:
        for frame in stretch[:-1]:
            nothing = Link(np.zeros((*drive.map_size, 2), np.float32), np.zeros(drive.map_size, np.bool_))
            drive._links[frame, frame + 1] = drive._links[frame + 1, frame] = nothing
    model = NoisyModel()
    single = label_drive(drive, ViewPredictor(model), 0.6, by_margin=False)
    gathered = label_drive(drive, TimePredictor(ViewPredictor(model)), 0.6, by_margin=False)
    assert (single.labels == gathered.labels).mean() > 0.999


def test_thresholds_come_from_pieces_of_the_whole_drive() -> None:
    drive = DriveFrames([np.zeros((8, 8, 3), np.uint8)] * 200, (8, 8), [range(120), range(120, 200)])
    pieces = spread_pieces(drive)
    assert sum(map(len, pieces)) <= 50 and pieces[0].start == 0 and pieces[-1].stop == 200
    assert sum(map(len, spread_pieces(drive, 200))) == 200


def test_nothing_that_can_be_labelled(pan: PanningDrive) -> None:
    drive = read_drives([pan], SIZE, 100)

    class Never(TimePredictor):
        def predict(self, drive, frames):
            for each in super().predict(drive, frames):
                yield type(each)(each.frame, each.probabilities, torch.zeros_like(each.allowed))

    with pytest.raises(NothingLabelledError, match="label a larger portion"):
        label_drive(drive, Never(ViewPredictor(ColourModel())), 0.5, by_margin=False)


def test_stpl_begins_as_the_model_itself(pan: PanningDrive) -> None:
    drive = read_drives([pan], SIZE, 100)
    model = ColourModel().requires_grad_(True)
    recipe = STPL(model, OfflineConfig(window=(48, 64)), torch.Generator().manual_seed(0)).train()
    labels = recipe.label(drive, 0)
    sampler = ClipSampler(drive, labels.labels, model, recipe.config, 2, recolours=False)
    clip = sampler.draw(np.random.default_rng(0))
    with torch.no_grad():
        embedding, before = recipe.embed(clip.images[1:]), recipe.embed(clip.images[:1])
        fused = recipe.fuse(embedding, before, clip.flows, clip.confirmed)
    assert torch.equal(fused, embedding)
    losses = recipe.loss(Batch(clip, None, 0, 0.0, np.random.default_rng(0)))
    assert losses["labels"].item() == pytest.approx(losses["fused labels"].item())
    torch.stack(list(losses.values())).sum().backward()
    for part in (recipe.fusion.weight, recipe.projection[0].weight, model.stem[0].weight):
        assert part.grad.abs().sum() > 0


def test_stpl_takes_the_frame_itself_where_flow_is_not_confirmed() -> None:
    recipe = STPL(ColourModel(), OfflineConfig(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        recipe.fusion.weight[:, 8:, 0, 0] = torch.eye(8)
    embedding, before = torch.ones(1, 8, 4, 6), torch.full((1, 8, 4, 6), 5.0)
    confirmed = torch.ones(1, 4, 6, dtype=torch.bool)
    confirmed[:, 0] = False
    fused = recipe.fuse(embedding, before, torch.zeros(1, 4, 6, 2), confirmed)
    assert (fused[..., 0, :] == 2).all() and (fused[..., 1:, :] == 6).all()
