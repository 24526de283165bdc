r"""The streaming state machine: frames in, segmentations out, while adaptations run elsewhere.

    BASE -> COLLECTING -> ADAPTING -> ADAPTED          COLLECTING -> ADAPTED where the scene was seen before
                              \-> FAILED (the last good model keeps serving)

A frame is encoded once. The stream never waits for an adaptation: its result is swapped in between two frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import shows_something
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.inference.compiled_network import Compiler, RuntimeStatus
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import UPDATE_SHARE, StreamConfig, WarmupTrigger
from ditta_core.stream.generations import Generation, GenerationStore
from ditta_core.stream.runner import AdaptationRunner
from ditta_core.stream.scene.monitor import SceneMonitor
from ditta_core.stream.scene.signature import SceneDescriber, SceneSignature
from ditta_core.stream.status import FrameRejected, StreamStatus
from ditta_core.stream.warmup_clip import SMALLEST_CLIP, NoveltyGate
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import Frame, Segmentation, State

# --- the stream ----------------------------------------------------------------------------------------------------

RESTARTED_CLIPS = 3
"""How often a warm-up clip is begun anew because of a cut in it. After that the clip is taken as it comes: video that
cuts all the time would never fill one, and the teachers carry nothing across a cut."""

RECOGNITION_FRAMES = 3
"""Frames of a warm-up that are compared with the scenes seen before."""


class VideoSegmenter:
    """Segments a stream of frames and adapts to it.

    ``push`` may be called by one thread while others ask for an adaptation, a reset or the status.

    Args:
        source: the model; the runner's worker loads the same one.
        config: of the stream.
        adaptation: of the warm-up.
        teacher: of the warm-up.
        runner: where adaptations run.
        notify: told of every noteworthy event in a sentence.
        base: the model that ``source`` describes with its add-on, where it is loaded already; used, never changed, so
            that several streams can share it.
        generations: of earlier sessions, for the same base model, to be restored where their scenes come back.
        compiler: has the networks that serve compiled; shared by the streams of a process; None for eager torch.
    """

    def __init__(
        self,
        source: ModelSource,
        config: StreamConfig,
        adaptation: AdaptationConfig,
        teacher: TeacherConfig,
        runner: AdaptationRunner,
        notify: Callable[[str], None] = lambda _: None,
        base: TemporalSegmenter | None = None,
        generations: Iterable[Generation] = (),
        compiler: Compiler | None = None,
    ) -> None:
        self.source = source
        self.config = config
        self.adaptation = adaptation
        self.teacher = teacher
        self.runner = runner
        self.notify = notify
        self.base = base or TemporalSegmenter(load_model(source))
        self.compiler = compiler
        self.live = FrameSegmenter(self.base, config.inference, temporal_branch=False, compiler=compiler)
        self.restorer = ImageRestorer()
        self.lock = threading.Lock()
        self.requests: deque[Callable[[], None]] = deque()
        self.clip: list[NDArray[np.uint8]] = []
        self.gate = NoveltyGate()
        self.restarted_clips = 0
        self.recognising = False
        self.last: Frame | None = None
        self.certainty: float | None = None
        self.monitor = SceneMonitor(SceneDescriber(self.base.model), config.scene)
        self.store = GenerationStore(config.remembered_scenes)
        self.clip_signature: SceneSignature | None = None
        self.serving: Generation | None = None
        """The adapted generation that is serving; None for the base model. Replaced, never changed."""
        self.served_since: int | None = None
        """Stamp of the frame with which it began; None until one has come."""
        self.updating: Generation | None = None
        """The generation that the running warm-up is to be averaged into; None where it stands for itself."""
        self.generations = 0
        for generation in generations:
            self.store.add(generation)
            self.generations = max(self.generations, generation.number)
        self._status = StreamStatus(warmup_frames=config.warmup_frames, remembered=len(self.store))
        self.resume()

    @property
    def status(self) -> StreamStatus:
        """An immutable snapshot; never waits."""
        return self._status

    @property
    def model(self) -> SegmentationModel:
        """The base model."""
        return self.base.model

    @property
    def runtime(self) -> RuntimeStatus:
        """What runs the network that serves."""
        return self.live.runtime

    # --- requests: carried out before the next frame, or by ``poll``; they never wait --------------------------------

    def request_adaptation(self) -> None:
        """Collect a new clip from the next frame on and adapt the base model to it.

        Until the new generation is there, the model that is serving goes on.
        """
        self.requests.append(self.begin_warmup)

    def reset(self) -> None:
        """Go back to the base model until an adaptation is requested or the stream starts over."""
        self.requests.append(lambda: self.return_to_base("base model, not adapted"))

    def request_restore(self) -> None:
        """Serve the newest of the generations that are kept.

        Raises:
            ValueError: none is kept.
        """
        generation = self.store.newest
        if generation is None:
            raise ValueError(
                "expected a generation to restore, but got none: nothing was adapted yet, or nothing is kept "
                "(remembered_scenes 0)"
            )
        self.requests.append(lambda: self.restore(generation, "restored"))

    def reconfigure(self, config: StreamConfig, adaptation: AdaptationConfig, teacher: TeacherConfig) -> None:
        """Change the settings between two frames; an adaptation that is running goes on with its own."""
        self.requests.append(lambda: self.take_settings(config, adaptation, teacher))

    def pause(self, cancel: bool) -> None:
        """No frames come until ``resume``: a clip that is being collected is dropped.

        Args:
            cancel: whether an adaptation that is running is given up as well.
        """
        self.requests.append(lambda: self.interrupt(cancel))

    def resume(self) -> None:
        """Frames come (again): begin a warm-up if none is running or done and the settings ask for one at start."""
        self.requests.append(self.start)

    # --- the stream -------------------------------------------------------------------------------------------------

    def push(self, frame: Frame) -> Segmentation:
        """Segment a frame.

        Raises:
            FrameRejected: the frame is older than the last one.
        """
        with self.lock:
            self.check_continuity(frame)
            self.apply_requests()
            self.take_news()
            self.watch_scene(frame)
            self.watch_age(frame)
            # The scene is watched on the camera's own image: what sets the thresholds there is the change of the light
            # itself, and a cut has to be known before anything of the last shot is averaged into this frame.
            seen = self.restorer(frame) if self.config.inference.restoration else frame
            segmentation = self.live.segment(seen, self.input_size(seen), self.status.generation)
            self.certainty = float(segmentation.confidence[::4, ::4].mean()) / 255
            if self.status.state is State.COLLECTING:
                self.collect(seen)
            self.last = frame
            return segmentation

    def poll(self) -> None:
        """Take in requests and news of the adaptation between frames; does nothing while a frame is being segmented."""
        if self.lock.acquire(blocking=False):
            try:
                self.apply_requests()
                self.take_news()
            finally:
                self.lock.release()

    def close(self) -> None:
        """Cancel what is running and free the runner."""
        with self.lock:
            self.runner.cancel()
            self.runner.close()

    # --- what follows runs under the lock ---------------------------------------------------------------------------

    def input_size(self, frame: Frame) -> tuple[int, int]:
        """Network input (height, width) for a frame."""
        return self.config.inference.input_size or self.model.input_size(frame.size, self.config.inference.long_side)

    def check_continuity(self, frame: Frame) -> None:
        """Start over where this frame cannot follow the last one; reject it where it is merely late."""
        if self.last is None:
            return
        behind = (self.last.stamp - frame.stamp) / 1e9
        if frame.size != self.last.size:
            self.restart(f"the resolution changed from {self.last.size} to {frame.size} (height, width)")
        elif frame.frame_id != self.last.frame_id:
            self.restart(f"the frame_id changed from {self.last.frame_id!r} to {frame.frame_id!r}")
        elif behind > self.config.max_clock_jump:
            self.rewind(f"the clock jumped back by {behind:.3f} s")
        elif behind > 0:
            raise FrameRejected(
                f"expected a frame not older than the last one, but got one {behind:.3f} s older; check that images of "
                f"one camera only arrive, in order"
            )

    def restart(self, reason: str) -> None:
        """Forget the stream; warm up anew where that is asked for at the start."""
        self.return_to_base(f"starting over: {reason}")
        self.start()

    def rewind(self, reason: str) -> None:
        """Start over, but let an adaptation that is running come to its end.

        A looped bag may be shorter than an adaptation, which would otherwise never end. Where it does not show the same
        scene again, that is seen as any other change of the scene.
        """
        if self.status.state is not State.ADAPTING:
            self.restart(reason)
            return
        self.live.memory = None
        self.restorer.reset()
        self.say(f"{reason}; the adaptation goes on")

    def start(self) -> None:
        """Begin a warm-up if nothing has begun and the settings ask for one at start."""
        if self.status.state is State.BASE and self.config.warmup_on is not WarmupTrigger.SERVICE:
            self.begin_warmup(recognise=True)

    def apply_requests(self) -> None:
        """Carry out what was asked for since the last frame, in order."""
        while self.requests:
            self.requests.popleft()()

    def take_settings(self, config: StreamConfig, adaptation: AdaptationConfig, teacher: TeacherConfig) -> None:
        """Go on with these settings."""
        self.config, self.adaptation, self.teacher = config, adaptation, teacher
        self.live.configure(config.inference)
        self.monitor.config = config.scene
        kept, self.store = self.store, GenerationStore(config.remembered_scenes)
        for generation in kept:
            self.store.add(generation)
        self._status = replace(self.status, warmup_frames=config.warmup_frames, remembered=len(self.store))

    def interrupt(self, cancel: bool) -> None:
        """See ``pause``."""
        if self.status.state is State.COLLECTING or (cancel and self.status.state is State.ADAPTING):
            self.runner.cancel()
            self.clip = []
            self.updating = None
            state = State.BASE if self.serving is None else State.ADAPTED
            self.say("warm-up given up: the stream was stopped", state=state, collected=0, progress=0.0, losses=())

    def return_to_base(self, message: str) -> None:
        """Give up what is running and serve the base model."""
        self.runner.cancel()
        self.clip = []
        self.updating = None
        self.monitor.forget()
        self.restorer.reset()
        self.serve(None)
        self.say(message, state=State.BASE, generation=0, collected=0, progress=0.0, losses=())

    def begin_warmup(self, recognise: bool = False) -> None:
        """Give up what is running and collect a clip.

        Args:
            recognise: restore a generation that is kept if its scene is the one that the first frames show.
        """
        self.updating = None
        self.restarted_clips = 0
        self.recognising = recognise and len(self.store) > 0
        self.collect_anew(f"collecting {self.config.warmup_frames} frames")

    def collect_anew(self, message: str) -> None:
        """Begin a clip with the next frame."""
        self.runner.cancel()
        self.clip = []
        self.gate.begin()
        self.monitor.begin()
        self.say(message, state=State.COLLECTING, collected=0, progress=0.0, losses=())

    def watch_scene(self, frame: Frame) -> None:
        """See whether this frame continues the last one, and whether it still shows the scene that was adapted to."""
        if self.config.warmup_on is not WarmupTrigger.SCENE_CHANGE and not self.config.remembered_scenes:
            return
        seen = self.monitor.observe(frame.image, frame.stamp, self.certainty)
        if seen.cut:
            self.live.memory = None  # nothing of the last shot may reach into this one
            self.restorer.reset()
            if self.status.state is State.COLLECTING and self.updating is not None:
                self.give_up_update(self.updating, "a cut in the clip")
            elif self.status.state is State.COLLECTING and self.clip and self.restarted_clips < RESTARTED_CLIPS:
                self.restarted_clips += 1
                self.collect_anew("collecting anew: a cut in the clip")
        if seen.left and self.config.warmup_on is WarmupTrigger.SCENE_CHANGE:
            # Elsewhere the base model is about as good as one adapted to the last scene (mean of seven changes of drive
            # or light: 40.4 against 39.6 mIoU) and never as bad (from the dark into daylight: 54.8 against 46.5).
            self.return_to_base(f"the scene changed: {seen.left}")
            self.begin_warmup(recognise=True)

    def watch_age(self, frame: Frame) -> None:
        """Begin an update where the generation that serves is old enough."""
        if self.served_since is None:
            self.served_since = frame.stamp
        due = self.config.update_seconds > 0 and frame.stamp - self.served_since >= self.config.update_seconds * 1e9
        if due and self.serving is not None and self.status.state is State.ADAPTED:
            generation = self.serving
            self.begin_warmup()
            self.updating = generation

    def give_up_update(self, generation: Generation, reason: str) -> None:
        """Go on with the generation that was to be updated, until the next update is due."""
        self.runner.cancel()
        self.clip = []
        self.settle(generation)
        message = f"generation {generation.number} was not updated: {reason}"
        self.say(message, state=State.ADAPTED, collected=0, progress=0.0, losses=())

    def collect(self, frame: Frame) -> None:
        """Keep the frame for the warm-up clip if it shows anything new; adapt when the clip is full or its time over.

        Nothing is adapted where the scene turns out to be known.
        """
        config = self.config
        blank = self.adaptation.guarded and not shows_something(frame.image)
        waiting = "waiting for frames that show something: now they are of one colour or mere noise"
        if blank and not self.gate.seen and self.status.message != waiting:
            self.say(waiting)
        if self.gate.admits(frame.image, frame.stamp, config.warmup_seconds, blank):
            self.clip.append(frame.image)
            self._status = replace(self.status, collected=len(self.clip))
        signature = self.monitor.signature
        enough = min(SMALLEST_CLIP, config.warmup_frames)
        late = config.warmup_seconds > 0 and self.gate.spent(config.warmup_seconds) and len(self.clip) >= enough
        full = late or len(self.clip) >= config.warmup_frames
        if self.recognising and signature is not None and (full or self.gate.seen >= RECOGNITION_FRAMES):
            self.recognising = False
            known = self.known_scene(signature)
            if known is not None:
                self.restore(known, "back in a scene seen before")
                return
        if not full:
            return
        clip, self.clip = np.stack(self.clip), []
        self.clip_signature = signature
        if signature is not None:
            self.monitor.settle(signature)
        of = "" if len(clip) >= config.warmup_frames else f" of {config.warmup_frames}: the camera stood still"
        self.say(f"adapting to {len(clip)} frames{of}", state=State.ADAPTING)
        adaptation = self.adaptation.after_restoration(self.restorer.noisiness)
        self.runner.submit(AdaptationJob(clip, self.input_size(frame), self.source, self.teacher, adaptation))
        self.take_news()

    def known_scene(self, signature: SceneSignature) -> Generation | None:
        """The generation that was adapted to this place, if one is kept."""
        nearest = self.store.nearest(signature)
        if nearest is None:
            return None
        generation, _ = nearest
        assert generation.signature is not None  # the store looks at no other
        return generation if self.monitor.same_place(signature, generation.signature) else None

    def take_news(self) -> None:
        """Take in progress, or swap in the result of an adaptation that ended."""
        if self.status.state is not State.ADAPTING:
            return
        news = self.runner.poll()
        if isinstance(news, AdaptationProgress):
            self._status = replace(self.status, progress=news.fraction, losses=news.losses)
        elif isinstance(news, AdaptationResult):
            self.finish(news)

    def finish(self, result: AdaptationResult) -> None:
        """Swap the adapted model in, with an empty memory; or say why the model stays as it is."""
        report = result.report
        updated = self.updating
        if result.state is None and updated is not None:
            self.give_up_update(updated, report.reason)
            return
        if result.state is None:
            self.say(f"adaptation failed: {report.reason}", state=State.FAILED, report=report)
            return
        state = result.state
        if updated is not None:
            state = updated.state.towards(state, UPDATE_SHARE, self.base)
        generation = Generation(self.generations + 1, state, report, self.clip_signature)
        try:
            self.serve(generation)
        except ValueError as error:
            self.say(f"adaptation failed: {error}", state=State.FAILED, report=report)
            return
        self.generations += 1
        if updated is not None:
            self.store.remove(updated)
        if generation.signature is not None:
            known = self.known_scene(generation.signature)
            if known is not None:  # learned anew because it was asked for: one generation per place
                self.store.remove(known)
        self.store.add(generation)
        note = "" if report.deployed_share != 0 or not report.steps else f"; {report.reason}"
        verb = "adapted" if updated is None else f"generation {updated.number} updated"
        self.announce(generation, f"{verb} to {report.frames} frames in {report.seconds:.1f} s{note}")

    def restore(self, generation: Generation, message: str) -> None:
        """Serve a generation that is kept."""
        try:
            self.serve(generation)
        except ValueError as error:
            self.say(f"generation {generation.number} could not be restored: {error}")
            return
        self.runner.cancel()
        self.clip = []
        self.store.touch(generation)
        self.announce(generation, f"{message}: generation {generation.number}")

    def serve(self, generation: Generation | None) -> None:
        """Go on with a generation, or with the base model, from the next frame on, with an empty memory.

        Raises:
            ValueError: the generation belongs to another model; what was serving stays.
        """
        if generation is None:
            self.live = FrameSegmenter(self.base, self.config.inference, temporal_branch=False, compiler=self.compiler)
        else:
            adapted = generation.state.apply(self.base)
            self.live = FrameSegmenter(adapted, self.config.inference, generation.state.temporal_branch, self.compiler)
            self.settle(generation)
        self.serving = generation

    def settle(self, generation: Generation) -> None:
        """A generation serves from now on: it is of this age, and this is its scene."""
        self.updating = None
        self.served_since = None if self.last is None else self.last.stamp
        if generation.signature is not None:
            self.monitor.settle(generation.signature)

    def announce(self, generation: Generation, message: str) -> None:
        """Tell that a generation serves."""
        self.say(
            message,
            state=State.ADAPTED,
            generation=generation.number,
            progress=1.0,
            losses=generation.report.losses,
            report=generation.report,
            remembered=len(self.store),
        )

    def say(self, message: str, **changes: object) -> None:
        """Change the status and tell of it."""
        self._status = replace(self.status, message=message, **changes)  # type: ignore[arg-type]
        self.notify(message)
