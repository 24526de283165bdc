"""DiTTA without ROS: segment a video stream and adapt to it.

Importing the package loads neither torch nor OpenCV; its public names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ditta_core.adaptation.config import AdaptationConfig
    from ditta_core.datasets.open import open_video
    from ditta_core.inference.config import InferenceConfig
    from ditta_core.segmentation.source import ModelSource
    from ditta_core.stream.config import StreamConfig
    from ditta_core.stream.video_segmenter import VideoSegmenter
    from ditta_core.teacher.config import TeacherConfig
    from ditta_core.types import Frame, Segmentation

__all__ = [
    "AdaptationConfig",
    "Frame",
    "InferenceConfig",
    "ModelSource",
    "Segmentation",
    "StreamConfig",
    "TeacherConfig",
    "VideoSegmenter",
    "open_video",
]

_MODULES = {
    "AdaptationConfig": "adaptation.config",
    "Frame": "types",
    "InferenceConfig": "inference.config",
    "ModelSource": "segmentation.source",
    "Segmentation": "types",
    "StreamConfig": "stream.config",
    "TeacherConfig": "teacher.config",
    "VideoSegmenter": "stream.video_segmenter",
    "open_video": "datasets.open",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
