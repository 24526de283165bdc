from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from released_segformer import DIM, released
from safetensors.torch import save_file
from torch import Tensor, nn

from ditta_core.catalog.checkpoints import CheckpointKind, identify, try_model, try_released, try_teacher
from ditta_core.classes import ClassList
from ditta_core.segmentation.espnetv2 import ESPNetv2
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.base import DistillationTarget
from ditta_core.teacher.config import TeacherConfig
from ditta_core.teacher.object_vote import ObjectVote


def espnetv2() -> ESPNetv2:
    return ESPNetv2(ClassList.packaged("camvid11")).eval()


def keys(*names: str) -> dict[str, Tensor]:
    """One number under each name."""
    return {name: torch.zeros(1) for name in names}


def sam2_tiny() -> dict[str, Tensor]:
    """As many tensors of SAM 2.1 tiny as tell what it is."""
    blocks = [f"image_encoder.trunk.blocks.{index}.x" for index in range(12)]
    return {
        "image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96, 1),
        **keys(*blocks, "memory_encoder.x", "sam_mask_decoder.x", "no_obj_embed_spatial"),
    }


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_espnetv2(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = espnetv2().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    checkpoint = identify(path)
    assert (checkpoint.kind, checkpoint.name) == (CheckpointKind.ESPNETV2, f"espnetv2:{path}")
    assert checkpoint.parameters == sum(value.numel() for value in state.values())
    assert not checkpoint.is_teacher and checkpoint.converted == path


def test_weights_in_the_old_format_of_torch(tmp_path: Path) -> None:
    """The released files of ESPNetv2 are older than torch's zip archives."""
    path = tmp_path / "weights.pth"
    torch.save(espnetv2().state_dict(), path, _use_new_zipfile_serialization=False)
    assert identify(path).kind is CheckpointKind.ESPNETV2


def test_released_weights(city_weights: Path) -> None:
    assert identify(city_weights).name == f"espnetv2:{city_weights}"


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_weights_of_sam2(tmp_path: Path, wrapper: str | None) -> None:
    path = tmp_path / "sam2.pt"
    state = sam2_tiny()
    torch.save({wrapper: state} if wrapper else state, path)
    checkpoint = identify(path)
    assert (checkpoint.kind, checkpoint.name) == (CheckpointKind.SAM2, "object_vote:sam2")
    assert checkpoint.architecture == "sam2.1_hiera_t"
    assert checkpoint.is_teacher and checkpoint.parameters == 96 + 15


def test_a_released_checkpoint_of_ditta_is_told_from_a_converted_one(tmp_path: Path) -> None:
    state = keys("backbone.x", "decode_head.linear_pred.weight", "decode_head.linear_fuse.conv.weight")
    save_file(state, tmp_path / "released.safetensors")
    save_file(state, tmp_path / "converted.safetensors", {"ditta_segformer": "{}"})
    released, converted = (identify(tmp_path / f"{name}.safetensors") for name in ("released", "converted"))
    assert released.kind is CheckpointKind.RELEASED_DITTA and converted.kind is CheckpointKind.DITTA
    assert converted.name == f"ditta:{tmp_path}/converted.safetensors"
    assert released.name == f"ditta:{tmp_path}/released.converted.safetensors"  # what the conversion is to write


@pytest.mark.parametrize(
    ("config", "kind", "prefix"),
    [
        ({"architectures": ["SegformerForSemanticSegmentation"]}, CheckpointKind.HUGGING_FACE, "hf:"),
        ({"model_type": "sam2_video"}, CheckpointKind.VIDEO_TRACKER, "object_vote:sam2_transformers"),
        ({"model_type": "edgetam_video"}, CheckpointKind.VIDEO_TRACKER, "object_vote:sam2_transformers"),
    ],
)
def test_model_folders(tmp_path: Path, config: dict[str, object], kind: CheckpointKind, prefix: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for part in (1, 2):
        save_file({f"weight{part}": torch.zeros(5)}, tmp_path / f"model-0000{part}-of-00002.safetensors")
    checkpoint = identify(tmp_path)
    assert checkpoint.kind is kind and checkpoint.name.startswith(prefix) and checkpoint.parameters == 10


def write_script(path: Path) -> None:
    """An archive with the parts of a program of torch.jit.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/constants.pkl", b"")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pth", lambda path: path.write_bytes(b""), "is empty"),
        ("a.pth", os.mkfifo, "is a device or a pipe"),
        ("a.pt", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        ("a.pth", lambda path: path.write_text("\n<!DOCTYPE html><html>quota"), "a web page"),
        ("a.engine", lambda path: path.write_bytes(b"\x08\x07"), "another runtime"),
        ("a.onnx", lambda path: path.write_bytes(b""), "is empty; download it again"),
        ("a.onnx", lambda path: path.write_text("<html>quota"), "a web page"),
        ("a.pt", write_script, "TorchScript"),
        ("a.safetensors", lambda path: path.write_bytes(b"\xff" * 100), "is damaged"),
        ("a.pth", lambda path: path.write_bytes(b"\x13" * 100), "is damaged"),
        ("a.pth", lambda path: torch.save(nn.Linear(1, 1), path), "Python objects besides tensors"),
        ("a.pth", lambda path: torch.save([torch.zeros(1)], path), "a dictionary of tensors"),
        ("a.pth", lambda path: torch.save({"epoch": 3}, path), "has no tensors"),
        ("a.pth", lambda path: torch.save(keys("layer.weight"), path), "1 tensors of an unknown network: layer.weight"),
        ("a.pth", lambda path: torch.save(keys("decode_head.conv_seg.weight"), path), "mmsegmentation"),
        (
            "a.pth",
            lambda path: torch.save(keys("image_encoder.x", "mask_decoder.x", "prompt_encoder.x"), path),
            "the first SAM",
        ),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        identify(path)
    assert str(path) in str(caught.value)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(espnetv2().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match="is damaged"):
        identify(path)


def test_weights_of_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file(keys("segformer.encoder.x"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"give the folder {tmp_path}"):
        identify(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has nothing"),
        ({"weights.pth": ""}, r"has \['weights.pth'\]; give the folder that has it, or a weight file"),
        ({"config.json": "{}"}, "a configuration alone"),
        ({"config.json": "{"}, "expected JSON"),
        ({"config.json": "[]"}, "expected an object"),
        ({"snapshots/abc/config.json": "{}"}, "give .*/snapshots/abc"),
    ],
)
def test_folders_that_cannot_be_loaded(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        identify(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        identify(tmp_path / "absent")


# --- whether it works ------------------------------------------------------------------------------------------------


def test_trial_of_a_model() -> None:
    trial = try_model(ModelSource(classes="[road, {obstacle: [car, pedestrian, bicyclst]}]"))
    model = espnetv2()
    assert trial.outputs == ClassList.packaged("camvid11").names
    assert trial.published == (("road", ("road",)), ("obstacle", ("car", "pedestrian")))
    assert set(trial.unlabelled) == set(trial.outputs) - {"road", "car", "pedestrian"}
    assert trial.likely_misspelt == {"bicyclst": "bicyclist"}
    encoder = sum(parameter.numel() for parameter in model.base_net.parameters())
    assert trial.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert trial.decoder_parameters == trial.parameters - encoder > 0
    assert trial.input_size == (272, 480) and trial.milliseconds > 0


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "finite weights"), (3e38, "finite logits")])
def test_weights_that_are_not_finite_or_nearly_so(value: float, message: str, tmp_path: Path) -> None:
    state = espnetv2().state_dict()
    state["bu_dec_l1.projection_layer.cbr.0.weight"].fill_(value)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        try_model(ModelSource(f"espnetv2:{tmp_path}/weights.safetensors"))


def test_trial_of_a_teacher_has_an_object_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object vote finds both classes in the clip of the trial, and follows the square to where it went."""
    targets: list[DistillationTarget] = []
    build = ObjectVote.build

    def keep(self: ObjectVote, *arguments: np.ndarray) -> DistillationTarget:
        targets.append(build(self, *arguments))
        return targets[-1]

    monkeypatch.setattr(ObjectVote, "build", keep)
    trial = try_teacher(TeacherConfig("object_vote:flow"))
    assert trial.milliseconds > 0 and targets[0].objects >= 2
    labels = targets[0].labels
    assert labels[0, 31:59, 51:79].all() and labels[1, 31:59, 56:84].all() and not labels[:, :25].any()


def test_trial_of_a_video_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr("ditta_core.catalog.checkpoints.CHECK_TRACKER_SIZE", 128)
    from sam2_video_models import save_small_checkpoint

    folder = Path(save_small_checkpoint(tmp_path))
    checkpoint = identify(folder)
    assert checkpoint.name == "object_vote:sam2_transformers"
    assert try_teacher(TeacherConfig(checkpoint.name, str(folder))).image_size == 128


def test_trial_of_a_released_checkpoint_of_ditta(tmp_path: Path) -> None:
    """In the layout of the release, with the 124 outputs of VSPW."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    state = released()
    state["decode_head.linear_pred.weight"] = torch.randn(124, DIM, 1, 1)
    state["decode_head.linear_pred.bias"] = torch.zeros(124)
    torch.save({"state_dict": state}, tmp_path / "segformer.pth")
    checkpoint = identify(tmp_path / "segformer.pth")
    assert (checkpoint.kind, checkpoint.architecture) == (CheckpointKind.RELEASED_DITTA, "124 outputs")
    trial = try_released(checkpoint, ModelSource(classes="navigation"))
    assert trial.outputs == ClassList.packaged("vspw124").names and trial.unlabelled == ("ceiling",)
    assert trial.input_size == (288, 480)
    assert [path.name for path in tmp_path.iterdir()] == ["segformer.pth"]


def test_a_segmentation_folder_works_by_its_name(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    names = ClassList.packaged("cityscapes19").names
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    checkpoint = identify(tmp_path)
    assert checkpoint.architecture == "SegformerForSemanticSegmentation"
    trial = try_model(ModelSource(checkpoint.name, "navigation"))
    assert trial.outputs == names and not trial.unlabelled
    assert dict(trial.published)["walkable"] == ("sidewalk",)
