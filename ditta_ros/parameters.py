"""Every parameter of the node once: name, type, default, range, description, and when it may change.

The fields of :class:`NodeParameters` are the one source. Declaration and validation, ``config/ditta.yaml`` and the
table in the README are made from them.
"""

from __future__ import annotations

import html
import json
import os
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from ditta_core.adaptation.config import AdaptationConfig, warmup_length
from ditta_core.inference.config import PRECISIONS, InferenceConfig, Runtime, RuntimeConfig
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import StreamConfig, WarmupTrigger
from ditta_core.stream.scene.config import SceneConfig
from ditta_core.teacher.config import TeacherConfig

Value = bool | int | float | str

STREAM = StreamConfig()
ADAPTATION = AdaptationConfig()
TEACHER = TeacherConfig()
MODEL = ModelSource()
RUNTIME = RuntimeConfig()


class Change(Enum):
    """When a parameter may be changed."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while unconfigured"
    NEVER = "at start only"


def parameter(
    default: Value,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    change: Change = Change.UNCONFIGURED,
) -> Any:
    """A field of :class:`NodeParameters` with what ROS has to know of it."""
    metadata = {"description": description, "choices": choices, "change": change, "range": (minimum, maximum)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters."""

    image_topic: str = parameter("/camera/image_raw", "Topic of the camera images, sensor_msgs/Image.")
    image_transport: str = parameter(
        "raw",
        "raw: sensor_msgs/Image on image_topic. compressed: sensor_msgs/CompressedImage on <image_topic>/compressed.",
        choices=("raw", "compressed"),
    )
    cameras: str = parameter(
        "",
        "Several cameras in one process, by name, as YAML text: '{front: /front/image_raw, rear: {image: "
        "/rear/image_raw, camera_info: /rear/info, depth: /rear/depth}}'. They share the frozen encoder, and adapt one "
        "after the other; topics and services are then ~/front/semantic and so on. Empty: the one of image_topic.",
    )
    camera_info_topic: str = parameter(
        "",
        "Topic of the sensor_msgs/CameraInfo that goes out beside the masks. Empty: camera_info beside the image.",
    )
    depth_topic: str = parameter(
        "",
        "Topic of a depth image registered to the camera image, 16UC1 in millimetres or 32FC1 in metres; turns on the "
        "labelled points. Empty: none.",
    )
    points_step: int = parameter(
        4,
        "Every so many pixels along both axes one labelled point. Nav2's semantic layer wants all: 1.",
        minimum=1,
        maximum=64,
        change=Change.ANY_TIME,
    )
    sync_slop: float = parameter(
        0.05,
        "Seconds that the stamps of image, camera info and depth may differ. 0: not at all.",
        minimum=0.0,
        maximum=10.0,
    )
    image_reliability: str = parameter(
        "best_effort",
        "Reliability asked of the camera. best_effort receives from every publisher; reliable loses no frame, but "
        "receives nothing from a best-effort publisher.",
        choices=("best_effort", "reliable"),
    )
    input_timeout: float = parameter(
        3.0,
        "Seconds without an image after which a warning names the cause.",
        minimum=0.1,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    model: str = parameter(
        MODEL.name,
        "The model: camvid (packaged), espnetv2:<weight file>, hf:<id or folder> (transformers) or ditta:<weight file> "
        "(SegFormer with the published decode head).",
    )
    classes: str = parameter(
        MODEL.classes,
        "Classes to publish, a subset or merge of the model's by name: YAML text such as "
        "'[road, {obstacle: [car, pedestrian]}]', a .yaml file or the name of a packaged list. Empty: the model's own.",
    )
    device: str = parameter(MODEL.device, "Device of torch, such as cpu or cuda:0.")
    allow_download: bool = parameter(
        MODEL.allow_download, "Whether models that are named by a hub id and are not on this machine may be downloaded."
    )
    allow_pickle: bool = parameter(
        MODEL.allow_pickle,
        "Whether hf: models may have weights in pickle files, of which torch reads nothing but tensors.",
    )
    long_side: int = parameter(
        STREAM.inference.long_side,
        "Longest side of the network input in pixels. 0: that of the image.",
        minimum=0,
        maximum=8192,
    )
    input_width: int = parameter(
        0, "Width of the network input in pixels, together with input_height. 0: by long_side.", minimum=0, maximum=8192
    )
    input_height: int = parameter(
        0, "Height of the network input in pixels, together with input_width. 0: by long_side.", minimum=0, maximum=8192
    )
    warmup_on: str = parameter(
        STREAM.warmup_on.value,
        "What begins a warm-up besides the service ~/adapt. startup: the first frames, also where the stream starts "
        "over; scene_change: that, and a change of the scene; service: nothing else.",
        choices=tuple(trigger.value for trigger in WarmupTrigger),
        change=Change.ANY_TIME,
    )
    scene_sensitivity: float = parameter(
        STREAM.scene.sensitivity,
        "How little a scene may change before it is another one. 0: it has to change most.",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    scene_confirmation: float = parameter(
        STREAM.scene.confirmation,
        "Seconds that a change has to last before the scene counts as another one.",
        minimum=0.0,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    scene_cooldown: float = parameter(
        STREAM.scene.cooldown,
        "Seconds after a warm-up or a change of the scene in which no other change is looked for.",
        minimum=0.0,
        maximum=86400.0,
        change=Change.ANY_TIME,
    )
    remembered_scenes: int = parameter(
        STREAM.remembered_scenes,
        "Adapted generations that are kept: a scene seen before is restored instead of learned again. 0: none.",
        minimum=0,
        maximum=1000,
        change=Change.ANY_TIME,
    )
    state_dir: str = parameter(
        "",
        "Folder to which ~/save writes the generation that is serving, and from which generations are read when the "
        "node is configured. Empty: none.",
    )
    cancel_on_deactivate: bool = parameter(
        False,
        "Whether deactivating the node gives up an adaptation that is running. Otherwise it goes on, and serves when "
        "the node is active again.",
        change=Change.ANY_TIME,
    )
    warmup_frames: int = parameter(
        STREAM.warmup_frames, "Frames of a warm-up.", minimum=1, maximum=1000, change=Change.ANY_TIME
    )
    warmup_ratio: int = parameter(
        0,
        "Frames of a warm-up in percent of expected_frames, as in the paper, instead of warmup_frames. 0: unused.",
        minimum=0,
        maximum=100,
        change=Change.ANY_TIME,
    )
    expected_frames: int = parameter(
        0,
        "Frames of the whole video, where known; only for warmup_ratio.",
        minimum=0,
        maximum=2**31 - 1,
        change=Change.ANY_TIME,
    )
    warmup_seconds: float = parameter(
        STREAM.warmup_seconds,
        "Seconds for which images of a standing camera are passed over in a warm-up, so that it shows more than one "
        "view. 0: the images as they come.",
        minimum=0.0,
        maximum=60.0,
        change=Change.ANY_TIME,
    )
    update_seconds: float = parameter(
        STREAM.update_seconds,
        "Seconds after which what serves is averaged with a new adaptation of the base model, for drives that change "
        "little by little; an update costs what an adaptation does. 0: never.",
        minimum=0.0,
        maximum=86400.0,
        change=Change.ANY_TIME,
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
        "Side in pixels of SAM 2's input; 512 is about six times as fast.",
        minimum=128,
        maximum=2048,
    )
    teacher_dtype: str = parameter(
        TEACHER.dtype,
        "Precision of SAM 2. Empty: bfloat16 on CUDA, float32 elsewhere.",
        choices=("", "float32", "bfloat16", "float16"),
    )
    mode: str = parameter(
        "live",
        "live: made for a stream. parity: the published behaviour, oddities included; set reliability_threshold to 0.8 "
        "and smoothing to 0 too.",
        choices=("live", "parity"),
    )
    statistics_share: float = parameter(
        ADAPTATION.statistics_share,
        "Share of the warm-up's BatchNorm statistics blended into those of the encoder's first layers, in live mode. "
        "0: none.",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    passes: int = parameter(
        ADAPTATION.passes, "Passes over the warm-up frames.", minimum=1, maximum=1000, change=Change.ANY_TIME
    )
    learning_rate: float = parameter(
        ADAPTATION.learning_rate, "Learning rate of the adaptation.", minimum=1e-8, maximum=1.0, change=Change.ANY_TIME
    )
    seed: int = parameter(
        ADAPTATION.seed, "Seed of the adaptation.", minimum=0, maximum=2**31 - 1, change=Change.ANY_TIME
    )
    guarded: bool = parameter(
        ADAPTATION.guarded,
        "Refuse a trained decoder that speaks against the base model, and images that show nothing, in live mode.",
        change=Change.ANY_TIME,
    )
    restoration: bool = parameter(
        STREAM.inference.restoration,
        "Denoise and stretch images that are noisy, dark or hazy, in live mode; others are left as they are.",
        change=Change.ANY_TIME,
    )
    reliability_threshold: float = parameter(
        STREAM.inference.reliability_threshold,
        "Pixels less reliable than this take the temporal branch into account, which is trained where this is above 0 "
        "when an adaptation begins. 0: no temporal branch.",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    smoothing: float = parameter(
        STREAM.inference.smoothing,
        "Largest share of the previous probabilities, carried along by optical flow, in the new ones. 0: none.",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    max_fusion_gap: float = parameter(
        STREAM.inference.max_fusion_gap,
        "Seconds between two stamps above which the later frame is segmented on its own.",
        minimum=0.0,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    max_clock_jump: float = parameter(
        STREAM.max_clock_jump,
        "Seconds. A stamp further back than this starts over (a looped bag); one less far back is rejected as late.",
        minimum=0.0,
        maximum=3600.0,
        change=Change.ANY_TIME,
    )
    runtime: str = parameter(
        RUNTIME.runtime.value,
        "What runs the network that serves. auto: OpenVINO on a CPU if it is installed, torch.compile on a GPU, else "
        "torch; until a network is compiled, and where it cannot be, torch serves.",
        choices=tuple(runtime.value for runtime in Runtime),
    )
    precision: str = parameter(
        RUNTIME.precision,
        "Of a compiled network. bfloat16 takes three quarters of the time where the hardware has it, and changes one "
        "to four pixels in a thousand at home, up to one in twenty where the model is unsure; auto: bfloat16 where it "
        "contradicts next to nothing that is sure, else float32.",
        choices=PRECISIONS,
    )
    threads: int = parameter(
        0,
        "Threads of the inference. 0: one per core but one, which is left to the optical flow, the adaptation and the "
        "rest of the robot.",
        minimum=0,
        maximum=1024,
    )
    adaptation_threads: int = parameter(1, "Threads of the adaptation's process.", minimum=1, maximum=1024)
    adaptation_niceness: int = parameter(
        5,
        "Niceness of the adaptation's process; the higher, the more it yields. Where inference keeps all cores busy, 5 "
        "leaves it a quarter of a core, 10 a tenth.",
        minimum=0,
        maximum=19,
    )
    overlay_rate: float = parameter(
        5.0, "Overlay images per second at the most.", minimum=0.1, maximum=1000.0, change=Change.ANY_TIME
    )
    overlay_opacity: float = parameter(
        0.5, "Share of the class colours in the overlay.", minimum=0.0, maximum=1.0, change=Change.ANY_TIME
    )
    autostart: bool = parameter(True, "Whether the node configures and activates itself at start.", change=Change.NEVER)

    def __post_init__(self) -> None:
        for spec in PARAMETERS:
            spec.check(getattr(self, spec.name))

    def stream_config(self, size_multiple: int = 1) -> StreamConfig:
        """How the stream is segmented and adapted to.

        Args:
            size_multiple: of which the sides of the model's input must be multiples.

        Raises:
            ValueError: two parameters do not go together, or with the model.
        """
        if bool(self.input_width) != bool(self.input_height):
            raise ValueError(
                f"expected both input_width and input_height, or neither, but got {self.input_width} and "
                f"{self.input_height}"
            )
        if self.input_width % size_multiple or self.input_height % size_multiple:
            raise ValueError(
                f"expected input_width and input_height in multiples of {size_multiple} for the model {self.model}, "
                f"but got {self.input_width} and {self.input_height}"
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
            update_seconds=self.update_seconds,
            scene=SceneConfig(self.scene_sensitivity, self.scene_confirmation, self.scene_cooldown),
            remembered_scenes=self.remembered_scenes,
            max_clock_jump=self.max_clock_jump,
        )

    def inference_config(self) -> InferenceConfig:
        """How one frame is segmented."""
        everywhere: dict[str, Any] = {
            "long_side": self.long_side,
            "input_size": (self.input_height, self.input_width) if self.input_height else None,
            "max_fusion_gap": self.max_fusion_gap,
        }
        if self.mode == "parity":
            return InferenceConfig.parity(**everywhere)
        return InferenceConfig(
            reliability_threshold=self.reliability_threshold,
            smoothing=self.smoothing,
            restoration=self.restoration,
            **everywhere,
        )

    def adaptation_config(self) -> AdaptationConfig:
        """How the decoder is trained."""
        optimiser: dict[str, Any] = {"passes": self.passes, "learning_rate": self.learning_rate, "seed": self.seed}
        if self.mode == "parity":
            return AdaptationConfig.parity(**optimiser)
        temporal_branch = self.reliability_threshold > 0
        return AdaptationConfig(
            statistics_share=self.statistics_share,
            temporal_branch=temporal_branch,
            guarded=self.guarded,
            **optimiser,
        )

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
        home = Path(os.environ.get("ROS_HOME", "~/.ros")).expanduser()
        return home / Path(self.state_dir).expanduser()

    def model_source(self) -> ModelSource:
        """Which model."""
        return ModelSource(self.model, self.classes, self.device, self.allow_download, self.allow_pickle)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        range: least and greatest value, None for no bound.
        choices: the values there are; empty for any.
    """

    name: str
    default: Value
    description: str
    range: tuple[float | None, float | None]
    choices: tuple[str, ...]
    change: Change

    @property
    def values(self) -> str:
        """The values there are, in words; empty for any."""
        low, high = self.range
        if self.choices:
            return ", ".join(self.choices)
        return "" if low is None or high is None else f"{low:g} to {high:.10g}"

    def check(self, value: Value) -> None:
        """Compare a value with the range or the choices.

        Raises:
            ValueError: it lies outside.
        """
        low, high = self.range
        inside = (not self.choices or value in self.choices) and (
            low is None or high is None or low <= float(value) <= high
        )
        if not inside:
            raise ValueError(f"expected {self.values} for the parameter {self.name}, but got {value!r}")

    def descriptor(self) -> ParameterDescriptor:
        """What ROS tools show of it."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=f"One of {self.values}." if self.choices else "",
            read_only=self.change is Change.NEVER,
        )
        low, high = self.range
        if isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif isinstance(self.default, int) and not isinstance(self.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        return descriptor


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


# --- documentation --------------------------------------------------------------------------------------------------


def yaml_value(value: Value) -> str:
    """A value as YAML that ROS reads with the same type."""
    return repr(value) if isinstance(value, float) else json.dumps(value)


def markdown_table() -> str:
    """The parameters as the table of the README."""
    lines = ["| parameter | default | values | changes | what it is |", "|---|---|---|---|---|"]
    lines += [
        f"| `{spec.name}` | `{yaml_value(spec.default)}` | {spec.values} | {spec.change.value} | "
        f"{html.escape(spec.description, quote=False)} |"
        for spec in PARAMETERS
    ]
    return "\n".join(lines) + "\n"


def parameters_file() -> str:
    """The text of ``config/ditta.yaml``: every parameter with its description and default."""
    lines = ["# Every parameter of the node with its default. Copy, change, and pass it as params_file.", "/**:"]
    lines.append("  ros__parameters:")
    for spec in PARAMETERS:
        values = f" ({spec.values})" if spec.values else ""
        lines += textwrap.wrap(f"{spec.description}{values}", 110, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    {spec.name}: {yaml_value(spec.default)}")
    return "\n".join(lines) + "\n"
