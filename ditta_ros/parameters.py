"""Every parameter of the node once: name, type, default, range, description, and when it may change.

The fields of :class:`NodeParameters` are the one source. Declaration and validation, the arguments of the launch file,
``config/ditta.yaml`` and ``docs/parameters.md`` (both written by ``tools/write_parameters.py``) are made from them.
Nothing here imports torch or OpenCV.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from rclpy.node import Node

from ditta_core.adaptation.config import AdaptationConfig, warmup_length
from ditta_core.datasets.paths import output_path
from ditta_core.inference.config import AUTO_LONG_SIDE, PRECISIONS, InferenceConfig, Runtime, RuntimeConfig
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import MOST_WARMUP_FRAMES, StreamConfig, WarmupTrigger
from ditta_core.stream.scene.config import SceneConfig
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import MOST_PIXELS
from ditta_ros.process.parameter import Change, ParameterSpec, Value, changeable, parameter

MODEL = ModelSource()
INFERENCE = InferenceConfig()
STREAM = StreamConfig()
ADAPTATION = AdaptationConfig()
TEACHER = TeacherConfig()
RUNTIME = RuntimeConfig()
IMAGE = "image"
"""The topic of the images as it stands in remappings; its place where there are none: ``camera/topics.py``."""


@dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters."""

    image_topic: str = parameter(
        IMAGE,
        "Topic of the camera images, sensor_msgs/Image. image: relative, to be remapped as everywhere, and "
        "camera/image_raw where it is not, which without a namespace is /camera/image_raw.",
    )
    image_transport: str = parameter(
        "raw",
        "Form of the camera images. raw: sensor_msgs/Image on image_topic. compressed: sensor_msgs/CompressedImage on "
        "<image_topic>/compressed.",
        choices=("raw", "compressed"),
    )
    cameras: str = parameter(
        "",
        "Several cameras in one process, by name, as YAML text: '{front: /front/image_raw, rear: {image: "
        "/rear/image_raw, camera_info: /rear/info, depth: /rear/depth}}'. They share the frozen encoder, and adapt one "
        "after the other. Their topics and services are ~/front/semantic and so on. Empty: the one of image_topic.",
    )
    camera_info_topic: str = parameter(
        "",
        "Topic of the sensor_msgs/CameraInfo that is published again at the size of the masks. Empty: camera_info "
        "beside the image topic, as it is remapped.",
    )
    depth_topic: str = parameter(
        "",
        "Topic of a depth image registered to the camera image, 16UC1 in millimetres or 32FC1 in metres. It turns on "
        "the labelled points. Empty: none.",
    )
    points_step: int = changeable(
        4,
        "Distance in pixels between two labelled points along both axes. Nav2's semantic layer wants every pixel: 1.",
        range=(1, 64),
    )
    sync_slop: float = parameter(
        0.05, "Seconds by which the stamps of image, camera info and depth may differ. 0: not at all.", range=(0, 10)
    )
    image_reliability: str = parameter(
        "best_effort",
        "Reliability asked of the camera's publisher. best_effort receives from every publisher; reliable loses no "
        "frame, but receives nothing from a best-effort publisher.",
        choices=("best_effort", "reliable"),
    )
    image_bits: int = parameter(
        0,
        "Number of bits that hold the values of 16-bit images, such as 12. 0: found from the images, as the least of "
        "8, 10, 12, 14 and 16 that hold the largest value so far.",
        range=(0, 16),
    )
    max_megapixels: float = parameter(
        MOST_PIXELS / 1e6,
        "Largest image in millions of pixels. A larger one is rejected, a compressed one before it is decoded.",
        range=(0.001, 1000),
    )
    input_timeout: float = changeable(
        3.0, "Seconds without an image after which a warning names the cause.", range=(0.1, 3600)
    )
    max_rate: float = changeable(
        0.0,
        "Largest number of images per second that are segmented, of each camera. Those above it are counted as "
        "skipped. 0: as many as there is time for.",
        range=(0, 1000),
    )
    model: str = parameter(
        MODEL.name,
        "Segmentation model: camvid or street (packaged), espnetv2:<weight file> or dicenet:<weight file> (EdgeNets), "
        "hf:<folder or hub id> (transformers), ditta:<weight file> (SegFormer with the published decode head), "
        "onnx:<file> or adapted:<file> (what ditta adapt wrote).",
    )
    classes: str = parameter(
        MODEL.classes,
        "Classes to publish, a subset or merge of the model's by name: YAML text such as "
        "'[road, {obstacle: [car, pedestrian]}]', a .yaml file or the name of a packaged list. Empty: the model's own.",
    )
    min_confidence: float = changeable(
        STREAM.min_confidence,
        "Probability of the class below which a pixel is unlabelled. 0: every pixel has its likeliest class.",
        range=(0, 1),
    )
    ignore_mask: str = parameter(
        "",
        "Image file whose black pixels, such as the robot's own body, are unlabelled and take no part in adaptations. "
        "It has the shape of the camera images, at any size. Several cameras name theirs in cameras. Empty: none.",
    )
    device: str = parameter(MODEL.device, "Device that torch computes on, such as cpu or cuda:0.")
    allow_download: bool = parameter(
        MODEL.allow_download, "Whether weights that are named by a hub id and are not on this machine are downloaded."
    )
    allow_pickle: bool = parameter(
        MODEL.allow_pickle, "Whether hf: models may have weights in pickle files, of which torch reads tensors alone."
    )
    long_side: int = parameter(
        INFERENCE.long_side,
        "Longest side of the network input in pixels. -1: every adaptation finds it on its warm-up, and 480 serves "
        "until then (in parity mode: 480). 0: that of the image.",
        range=(AUTO_LONG_SIDE, 8192),
    )
    target_rate: float = changeable(
        STREAM.target_rate,
        "Masks per second that the network input must leave possible where an adaptation finds its size; 480 is taken "
        "in any case. Several cameras share the time. 0: no bound, the size depends on the images alone.",
        range=(0, 1000),
    )
    input_width: int = parameter(
        0, "Width of the network input in pixels, together with input_height. 0: by long_side.", range=(0, 8192)
    )
    input_height: int = parameter(
        0, "Height of the network input in pixels, together with input_width. 0: by long_side.", range=(0, 8192)
    )
    warmup_on: str = changeable(
        STREAM.warmup_on.value,
        "What begins a warm-up besides the service ~/adapt. startup: the first frames, also where the stream starts "
        "over. scene_change: that, and a change of the scene. service: nothing else.",
        choices=tuple(trigger.value for trigger in WarmupTrigger),
    )
    scene_sensitivity: float = changeable(
        STREAM.scene.sensitivity,
        "Readiness to take a change in the images for another scene. 0: only the largest change is one.",
        range=(0, 1),
    )
    scene_confirmation: float = changeable(
        STREAM.scene.confirmation,
        "Seconds that a change has to last before the scene counts as another one.",
        range=(0, 3600),
    )
    scene_cooldown: float = changeable(
        STREAM.scene.cooldown,
        "Seconds after a warm-up or a change of the scene in which no other change is looked for.",
        range=(0, 86400),
    )
    remembered_scenes: int = changeable(
        STREAM.remembered_scenes,
        "Number of adapted generations that are kept: a scene seen before is restored instead of learned again. "
        "0: none.",
        range=(0, 1000),
    )
    state_dir: str = parameter(
        "",
        "Folder of saved generations. ~/save writes the one that is serving; all are read when the node is configured. "
        "A relative path begins at ROS_HOME, else ~/.ros. Empty: none.",
    )
    cancel_on_deactivate: bool = changeable(
        False,
        "Whether a running adaptation is cancelled when the node is deactivated. Otherwise it goes on, and serves when "
        "the node is active again.",
    )
    warmup_frames: int = changeable(
        STREAM.warmup_frames,
        "Number of frames of a warm-up. On fewer than three, nothing is trained.",
        range=(1, MOST_WARMUP_FRAMES),
    )
    warmup_ratio: int = changeable(
        0,
        "Length of a warm-up in percent of expected_frames, as in the paper, instead of warmup_frames. 0: unused.",
        range=(0, 100),
    )
    expected_frames: int = changeable(
        0, "Number of frames of the whole video, where it is known; for warmup_ratio alone.", range=(0, 2**31 - 1)
    )
    warmup_seconds: float = changeable(
        STREAM.warmup_seconds,
        "Seconds for which a warm-up passes over the images of a standing camera, so that it shows more than one view. "
        "0: the images as they come.",
        range=(0, 60),
    )
    update_seconds: float = changeable(
        STREAM.update_seconds,
        "Seconds after which a new adaptation of the base model is averaged into what serves, for drives that change "
        "little by little. An update costs as much as an adaptation. 0: never.",
        range=(0, 86400),
    )
    teacher: str = parameter(
        TEACHER.name,
        "What the warm-up learns from: flow (predictions propagated along optical flow), or the published vote over "
        "tracked objects: object_vote:flow, object_vote:sam2 (package sam2), object_vote:sam2_transformers.",
    )
    teacher_checkpoint: str = parameter(
        TEACHER.checkpoint,
        "Weights of SAM 2: a file for object_vote:sam2, a folder or hub id for object_vote:sam2_transformers.",
    )
    teacher_image_size: int = parameter(
        TEACHER.image_size,
        "Side of SAM 2's input in pixels; 512 is about six times as fast as 1024.",
        range=(128, 2048),
    )
    teacher_dtype: str = parameter(
        TEACHER.dtype,
        "Precision of SAM 2. Empty: bfloat16 on CUDA, float32 elsewhere.",
        choices=("", "float32", "bfloat16", "float16"),
    )
    mode: str = parameter(
        "live",
        "What is computed. live: made for a stream. parity: the published training and inference, oddities included, "
        "towards what teacher says (the paper's: object_vote:sam2); what is for live mode alone does not count then.",
        choices=("live", "parity"),
    )
    statistics_share: float = changeable(
        ADAPTATION.statistics_share,
        "Share of the warm-up's BatchNorm statistics in those of the encoder's first layers; twice that, but at most "
        "0.6, where it suits the later layers. 0: none. For live mode alone.",
        range=(0, 1),
    )
    self_training_steps: int = changeable(
        ADAPTATION.self_training_steps,
        "Number of steps that train the network by its own labels, on three frames or more; where the teacher knows "
        "objects, the decoder instead. 0: always the decoder, from 20 frames on if it knows none. For live mode alone.",
        range=(0, 1000),
    )
    passes: int = changeable(ADAPTATION.passes, "Passes over the frames where the decoder is trained.", range=(1, 1000))
    learning_rate: float = changeable(
        0.0, f"Learning rate of the decoder. 0: {ADAPTATION.learning_rate:g}, in parity 0.001.", range=(0, 1)
    )
    seed: int = changeable(ADAPTATION.seed, "Seed of the adaptation's random numbers.", range=(0, 2**31 - 1))
    guarded: bool = changeable(
        ADAPTATION.guarded,
        "Whether a training that contradicts the base model is refused, and images that show nothing are left "
        "out of warm-ups. For live mode alone.",
    )
    restoration: bool = changeable(
        INFERENCE.restoration,
        "Whether images that are noisy, dark or hazy are denoised and stretched; others stay as they are. For live "
        "mode alone.",
    )
    reliability_threshold: float = changeable(
        INFERENCE.reliability_threshold,
        "Reliability below which a pixel takes the temporal branch into account. Above 0, adaptations train decoder "
        "and branch as with self_training_steps 0. 0: no temporal branch. For live mode alone.",
        range=(0, 1),
    )
    smoothing: float = changeable(
        INFERENCE.smoothing,
        "Largest share of the previous probabilities, carried along by optical flow, in the new ones. 0: none. For "
        "live mode alone.",
        range=(0, 1),
    )
    max_fusion_gap: float = changeable(
        INFERENCE.max_fusion_gap,
        "Seconds between two stamps above which the later frame is segmented on its own.",
        range=(0, 3600),
    )
    max_clock_jump: float = changeable(
        STREAM.max_clock_jump,
        "Seconds by which a stamp may lie behind the last one. An image that lies less behind is late, and is "
        "rejected; with three that lie further behind, or ten in order, the stream starts over (a looped bag).",
        range=(0, 3600),
    )
    runtime: str = parameter(
        RUNTIME.runtime.value,
        "What runs the network that serves. auto: OpenVINO on a CPU if it is installed, torch.compile on a GPU, else "
        "torch. Until a network is compiled, and where it cannot be, torch serves.",
        choices=tuple(runtime.value for runtime in Runtime),
    )
    precision: str = parameter(
        RUNTIME.precision,
        "Precision of a compiled network. bfloat16 takes three quarters of the time where the hardware has it, and "
        "changes one to four pixels in a thousand on images like the training data, up to one in twenty where the "
        "model is unsure. auto: bfloat16 where it contradicts next to nothing that is sure, else float32.",
        choices=PRECISIONS,
    )
    threads: int = parameter(
        0,
        "Number of CPU threads of the inference. 0: one per core but one, which is left to the optical flow, the "
        "adaptation and the rest of the robot.",
        range=(0, 1024),
    )
    adaptation_threads: int = parameter(1, "Number of CPU threads of the adaptation's process.", range=(1, 1024))
    adaptation_niceness: int = parameter(
        5,
        "Niceness of the adaptation's process; the higher, the more it yields. Where inference keeps all cores busy, 5 "
        "leaves it a quarter of a core, 10 a tenth.",
        range=(0, 19),
    )
    adaptation_timeout: float = parameter(
        600.0,
        "Seconds without progress after which a running adaptation has failed and its process is replaced. SAM 2 tells "
        "of none until it is done with all frames, which can take minutes on a CPU.",
        range=(1, 86400),
    )
    overlay_rate: float = changeable(5.0, "Largest number of overlay images per second.", range=(0.1, 1000))
    overlay_opacity: float = changeable(0.5, "Share of the class colours in the overlay.", range=(0, 1))
    autostart: bool = parameter(True, "Whether the node configures and activates itself at start.", change=Change.NEVER)

    def __post_init__(self) -> None:
        for spec in PARAMETERS:
            spec.check(getattr(self, spec.name))

    def stream_config(self, size_multiple: int = 1, cameras: int = 1) -> StreamConfig:
        """How the stream is segmented and adapted to.

        Args:
            size_multiple: of which the sides of the model's input must be multiples.
            cameras: that are segmented one after the other.

        Raises:
            ValueError: two parameters do not go together, or with the model.
        """
        width, height = self.input_width, self.input_height
        if bool(width) != bool(height):
            raise ValueError(f"expected both input_width and input_height, or neither, but got {width} and {height}")
        if width % size_multiple or height % size_multiple:
            raise ValueError(
                f"expected input_width and input_height in multiples of {size_multiple} for the model {self.model}, "
                f"but got {width} and {height}"
            )
        if self.warmup_ratio and not self.expected_frames:
            raise ValueError(
                f"expected expected_frames with a warmup_ratio of {self.warmup_ratio} %, but got 0; give the length of "
                f"the video, or warmup_frames instead of the ratio"
            )
        frames = warmup_length(self.expected_frames, self.warmup_ratio) if self.warmup_ratio else self.warmup_frames
        return StreamConfig(
            inference=self.inference_config(),
            warmup_frames=frames,
            warmup_seconds=self.warmup_seconds,
            warmup_on=WarmupTrigger(self.warmup_on),
            target_rate=self.target_rate * cameras,
            update_seconds=self.update_seconds,
            scene=SceneConfig(self.scene_sensitivity, self.scene_confirmation, self.scene_cooldown),
            remembered_scenes=self.remembered_scenes,
            min_confidence=self.min_confidence,
            max_clock_jump=self.max_clock_jump,
        )

    def inference_config(self) -> InferenceConfig:
        """How one frame is segmented."""
        everywhere: dict[str, Any] = {
            "input_size": (self.input_height, self.input_width) if self.input_height else None,
            "max_fusion_gap": self.max_fusion_gap,
        }
        if self.mode != "parity" or self.long_side != AUTO_LONG_SIDE:
            everywhere["long_side"] = self.long_side
        if self.mode == "parity":
            return InferenceConfig.parity(**everywhere)
        return InferenceConfig(
            reliability_threshold=self.reliability_threshold,
            smoothing=self.smoothing,
            restoration=self.restoration,
            **everywhere,
        )

    def adaptation_config(self) -> AdaptationConfig:
        """How a warm-up is learned from."""
        optimiser: dict[str, Any] = {"passes": self.passes, "seed": self.seed}
        if self.learning_rate:
            optimiser["learning_rate"] = self.learning_rate
        if self.mode == "parity":
            return AdaptationConfig.parity(**optimiser)
        branch = self.reliability_threshold > 0
        optimiser |= {"self_training_steps": self.self_training_steps, "temporal_branch": branch}
        return AdaptationConfig(statistics_share=self.statistics_share, guarded=self.guarded, **optimiser)

    def runtime_config(self) -> RuntimeConfig:
        """What runs the network that serves."""
        return RuntimeConfig(Runtime(self.runtime), self.precision)

    def teacher_config(self) -> TeacherConfig:
        """What it learns from."""
        return TeacherConfig(
            self.teacher,
            self.teacher_checkpoint,
            self.teacher_image_size,
            dtype=self.teacher_dtype,
            allow_download=self.allow_download,
        )

    def state_path(self) -> Path:
        """The folder of saved generations; of a relative one the user's ROS home is the parent.

        What ROS starts has the working directory of whoever started it.
        """
        return output_path(os.environ.get("ROS_HOME", "~/.ros")) / output_path(self.state_dir)

    def model_source(self) -> ModelSource:
        """Which model."""
        return ModelSource(self.model, self.classes, self.device, self.allow_download, self.allow_pickle)


PARAMETERS = tuple(
    ParameterSpec(each.name, cast(Value, each.default), **each.metadata) for each in fields(NodeParameters)
)


def declare(node: Node) -> NodeParameters:
    """Declare all parameters on a node and return their values.

    Raises:
        rclpy.exceptions.ParameterException, ValueError: a value from outside has the wrong type or lies out of range.
    """
    for spec in PARAMETERS:
        node.declare_parameter(spec.name, spec.default, spec.descriptor())
    return NodeParameters(**{spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS})


def changed(current: NodeParameters, changes: Iterable[tuple[str, Value]], configured: bool) -> NodeParameters:
    """The parameters after a change at run time; names that are none of ours are left to others.

    Args:
        configured: whether the node has read the parameters that it reads when it is configured.

    Raises:
        ValueError: a value lies outside its range, or the parameter cannot be changed now.
    """
    specs = {spec.name: spec for spec in PARAMETERS}
    ours: dict[str, Any] = {name: value for name, value in changes if name in specs}
    for name in ours:
        if configured and specs[name].change is Change.UNCONFIGURED:
            raise ValueError(
                f"the parameter {name} is read when the node is configured; clean the node up (deactivate, cleanup), "
                f"set it, and configure it again"
            )
    return replace(current, **ours)
