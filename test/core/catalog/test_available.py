from __future__ import annotations

import json
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ditta_core.catalog.available as module
from ditta_core.catalog.available import Option, available, cached_checkpoints, models, teachers
from ditta_core.catalog.checkpoints import CheckpointKind
from ditta_core.classes import ClassList
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.teacher.build import build_teacher
from ditta_core.teacher.config import TEACHERS, TeacherConfig


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that packages are installed, by name with their version, and all others not."""

    def pretend(**versions: str) -> None:
        here = {"sam2", "hydra", "iopath", "onnx", "transformers"}
        monkeypatch.setattr(util, "find_spec", lambda name: object() if name in here & set(versions) else None)
        monkeypatch.setattr(module, "distribution_version", lambda name: versions.get(name, "unknown"))

    return pretend


def by_name(options: list[Option]) -> dict[str, Option]:
    return {option.name: option for option in options}


def in_cache(cache: Path, repository: str, files: dict[str, object], commit: str = "a" * 40) -> Path:
    """Lay a snapshot into a cache as the hub's client does, and return its folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        blob = folder / "blobs" / name
        if isinstance(content, str):
            blob.write_text(content)
        elif name.endswith(".safetensors"):
            save_file({"weight": torch.zeros(1)}, blob)
        else:
            torch.save(content, blob)
        (snapshot / name).symlink_to(blob)
    return snapshot


SEGFORMER = json.dumps({"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]})
SAM2_WEIGHTS = {
    "image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96, 1),
    **{f"image_encoder.trunk.blocks.{index}.x": torch.zeros(1) for index in range(12)},
    **{name: torch.zeros(1) for name in ("memory_encoder.x", "sam_mask_decoder.x")},
}


def test_what_is_listed_as_loadable_can_be_loaded() -> None:
    found = available()
    for option in found.models:
        if option.problem is None and not any(word.isupper() for word in option.name.replace(":", " ").split()):
            assert load_model(ModelSource(option.name)).outputs.names
    for option in found.teachers:
        if option.problem is None:
            build_teacher(TeacherConfig(option.name, option.checkpoint), torch.device("cpu"))
    assert {option.name for option in found.teachers} == set(TEACHERS)
    assert found.class_lists["ade20k150"] == ClassList.packaged("ade20k150").names


def test_missing_packages(packages: Callable[..., None]) -> None:
    packages()
    problems = {option.name: option.problem for option in [*models([]), *teachers([])] if option.problem is not None}
    for name in ("hf:FOLDER or hf:ID", "ditta:FILE", "object_vote:sam2_transformers"):
        assert problems[name].reason == "the package transformers is not installed"
        assert problems[name].command == "pip install 'transformers>=4.57'"
    assert problems["onnx:FILE"].command == "pip install 'onnx>=1.17'"
    assert problems["object_vote:sam2"].reason == "the package sam2 is not installed"
    assert "pip install" in problems["object_vote:sam2"].command
    assert "camvid" not in problems and "flow" not in problems and "object_vote:flow" not in problems


@pytest.mark.parametrize(
    ("cuda", "part"), [(None, "SAM2_BUILD_CUDA=0 pip install --no-deps"), ("12.8", "pip install 'sam2>=1.1,<2'")]
)
def test_how_sam2_is_installed_depends_on_torch(
    packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, cuda: str | None, part: str
) -> None:
    packages(sam2="1.1.0")  # but neither hydra nor iopath
    monkeypatch.setattr(torch.version, "cuda", cuda)
    problem = by_name(teachers([]))["object_vote:sam2"].problem
    assert problem is not None and problem.reason == "the package hydra is not installed" and part in problem.command


@pytest.mark.parametrize(
    ("version", "works"), [("4.49.0", False), ("4.57.1", True), ("5.23.0", True), ("5.0rc1", True)]
)
def test_old_transformers(packages: Callable[..., None], version: str, works: bool) -> None:
    packages(transformers=version)
    problem = module.transformers_problem()
    assert (problem is None) is works
    assert works or (problem is not None and f"too old: {version}" in problem.reason)


@pytest.mark.parametrize(
    ("torch_version", "torchvision", "works"),
    [("2.9.0+cpu", "0.24.0", False), ("2.9.0+cpu", "0.24.0+cpu", True), ("2.9.0+cu128", "0.24.0", True)],
)
def test_torchvision_for_cuda_beside_torch_for_cpu(
    packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, torch_version: str, torchvision: str, works: bool
) -> None:
    packages(transformers="5.23.0", sam2="1.1.0", hydra="1.3.2", iopath="0.1.10", torchvision=torchvision)
    monkeypatch.setattr(torch, "__version__", torch_version)
    for problem in (module.transformers_problem(), module.sam2_problem()):
        assert (problem is None) is works
        assert problem is None or problem.command == "pip uninstall -y torchvision"


def test_missing_weights(packages: Callable[..., None]) -> None:
    packages(transformers="5.23.0", sam2="1.1.0", hydra="1.3.2", iopath="0.1.10", onnx="1.23.2")
    problems = {option.name: option.problem for option in [*models([]), *teachers([])] if option.problem is not None}
    starts = {
        "espnetv2:FILE": "curl -LO https://",
        "dicenet:FILE": "curl -LO https://",
        "hf:FOLDER or hf:ID": "hf download nvidia/",
        "adapted:FILE": "ditta adapt DRIVE",
        "ditta:FILE": "",
        "onnx:FILE": "ditta models check",
        "object_vote:sam2": "curl -LO https://",
        "object_vote:sam2_transformers": "hf download facebook/",
    }
    assert problems.keys() == starts.keys()
    assert all(problems[name].command.startswith(start) for name, start in starts.items())


def test_cache_of_hugging_face(tmp_path: Path, packages: Callable[..., None]) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    in_cache(tmp_path, "one/segformer", {"config.json": SEGFORMER, "model.safetensors": None})
    in_cache(tmp_path, "two/pickled", {"config.json": SEGFORMER, "pytorch_model.bin": {}})
    in_cache(tmp_path, "three/text", {"config.json": '{"architectures": ["BertModel"]}', "model.safetensors": None})
    in_cache(tmp_path, "four/broken", {"config.json": "{"})
    both = {
        "config.json": '{"model_type": "sam2_video"}',
        "model.safetensors": None,
        "sam2.1_hiera_tiny.pt": SAM2_WEIGHTS,
    }
    snapshot = in_cache(tmp_path, "five/sam2", both)
    in_cache(tmp_path, "six/sam2-damaged", {"sam2_hiera_tiny.pt": "version https://git-lfs"})
    cached = cached_checkpoints(tmp_path)
    assert [(entry.repository, entry.kind) for entry in cached] == [
        ("five/sam2", CheckpointKind.VIDEO_TRACKER),
        ("five/sam2", CheckpointKind.SAM2),
        ("one/segformer", CheckpointKind.HUGGING_FACE),
        ("three/text", CheckpointKind.HUGGING_FACE),
        ("two/pickled", CheckpointKind.HUGGING_FACE),
    ]
    packages(transformers="5.23.0", sam2="1.1.0", hydra="1.3.2", iopath="0.1.10")
    listed = by_name(models(cached))
    assert listed["hf:one/segformer"].problem is None and listed["hf:FOLDER or hf:ID"].problem is None
    pickled = listed["hf:two/pickled"].problem
    assert pickled is not None and pickled.reason == "it has no safetensors"
    assert "hf:three/text" not in listed and "hf:four/broken" not in listed
    by_teacher = by_name(teachers(cached))
    weights = by_teacher["object_vote:sam2"]
    assert (weights.checkpoint, weights.problem) == (str(snapshot / "sam2.1_hiera_tiny.pt"), None)
    folder = by_teacher["object_vote:sam2_transformers"]
    assert (folder.checkpoint, folder.problem) == ("five/sam2", None)


def test_edgetam_needs_timm(tmp_path: Path, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    assert pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed").scan_cache_dir
    in_cache(tmp_path, "one/edgetam", {"config.json": '{"model_type": "edgetam_video"}', "model.safetensors": None})
    packages(transformers="5.23.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    (entry,) = cached_checkpoints(tmp_path)
    assert entry.problem is not None and entry.problem.reason == "the package timm is not installed"
    assert "whl/cpu" in entry.problem.command and entry.problem.command.endswith("pip install timm")


def test_no_cache(tmp_path: Path) -> None:
    assert cached_checkpoints(tmp_path / "absent") == []
