"""Checkpoints of SAM 2, and which releases of its package will do."""

from __future__ import annotations

import functools
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from moving_scenes import Scene
from sam2_models import CPU, random_network, small_configuration

from ditta_core.teacher.sam2 import Sam2Tracker, Sam2TrackerConfig
from ditta_core.teacher.sam2_network import (
    CONFIGURATIONS,
    INTERFACE,
    SIZES,
    build_network,
    configuration_name,
    load_configuration,
    load_network,
    require_sam2,
)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_size_is_recognised_by_its_tensors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Shapes without numbers; the network looks at those of one table while it is built.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        network = build_network(load_configuration(name), 512)
    assert configuration_name(network.state_dict()) == name


def test_there_are_all_sizes_of_the_package() -> None:
    (folder,) = import_module("sam2").__path__
    names = {file.stem for file in Path(folder, "configs").glob("sam2*/*_hiera_*.yaml")}
    assert {name for name in names if "finetune" not in name} == set(CONFIGURATIONS)
    assert len(CONFIGURATIONS) == 2 * len(SIZES)


def test_safetensors_and_bare_tensors_are_read(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = torch.load(checkpoint, weights_only=True)["model"]
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "bare.pt")
    for name, configuration in (("weights.safetensors", ""), ("bare.pt", "sam2.1_hiera_t")):
        network = load_network(str(tmp_path / name), CPU, 64, configuration)
        assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


class Foreign:
    """Something that is no tensor."""


def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    weights = torch.load(checkpoint, weights_only=True)["model"]
    cases: dict[str, tuple[Any, str]] = {
        "code.pt": (Foreign(), "expected a readable weight file"),
        "list.pt": ([1, 2], "expected a flat dictionary of tensors"),
        "transformers.pt": ({"vision_encoder.neck": torch.zeros(1)}, "object_vote:sam2_transformers"),
        "width.pt": (
            {**weights, "image_encoder.trunk.patch_embed.proj.weight": torch.zeros(100, 3, 7, 7)},
            r"but got \(100, 12\)",
        ),
        "missing.pt": ({key: value for key, value in weights.items() if key != "no_mem_embed"}, "no_mem_embed"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_network(str(tmp_path / name), CPU)
    with pytest.raises(ValueError, match=r"expected a configuration of sam2_hiera_t.*, but got 'sam3'"):
        load_network(str(checkpoint), CPU, configuration="sam3")
    with pytest.raises(ValueError, match=r"expected the tensors of sam2_hiera_t"):
        load_network(str(checkpoint), CPU, configuration="sam2_hiera_t")
    with pytest.raises(ValueError, match="expected an image size that is a multiple of 32, but got 500"):
        load_network(str(checkpoint), CPU, 500)
    with pytest.raises(FileNotFoundError, match=r"expected the file of a SAM 2 checkpoint.*where there is none"):
        load_network(str(tmp_path / "nowhere.pt"), CPU)


@pytest.mark.parametrize("size", [64, 96, 160])
def test_any_multiple_of_32_will_do(size: int, scene: Scene) -> None:
    tracker = Sam2Tracker(random_network(small_configuration(), size))
    tracker.start(scene.clip[:3])
    tracker.add_object(0, 1, point=(60, 50))
    tracker.propagate(0)
    assert tracker.propagate(1)[1].shape == (120, 160)


@pytest.mark.parametrize("setting", [{"hole_area": -1}, {"objects_at_once": 0}, {"frames_kept": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(setting))} >= .*, but got"):
        Sam2TrackerConfig(**setting)


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Let only these distributions be installed."""

    def version(name: str) -> str:
        if name.replace("-", "_") in versions:
            return versions[name.replace("-", "_")]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("versions", [{"sam2": "1.1.0"}, {"rf_sam_2": "1.0.3"}, {"SAM_2": "1.0"}, {}])
def test_every_upload_of_the_package_will_do(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    pretend(monkeypatch, **versions)
    assert require_sam2().__name__ == "SAM2Base"


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, rf_sam_2="2.0")
    with pytest.raises(ImportError, match=r"expected sam2 or rf-sam-2 in version 1, but got rf-sam-2 2.0; .*pip"):
        require_sam2()


def test_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERFACE, "track_step", "frame")
    with pytest.raises(ImportError, match=r"where track_step takes frame, but got sam2 .*frame_idx.*; .*pip"):
        require_sam2()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam2.modeling.sam2_base", None)
    with pytest.raises(ImportError, match=r"expected the package sam2, but got: .*; install it by 'pip install"):
        require_sam2()
