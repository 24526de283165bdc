r"""The streaming state machine: frames in, segmentations out, while adaptations run elsewhere.

    BASE -> COLLECTING -> ADAPTING -> ADAPTED          COLLECTING -> ADAPTED where the scene was seen before
                              \-> FAILED (the last good model keeps serving)

A frame is encoded once. The stream never waits for an adaptation: its result is swapped in between two frames.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.guard import shows_something
from ditta_core.adaptation.job import AdaptationJob, AdaptationProgress, AdaptationResult
from ditta_core.inference.compiled_network import Compiler, RuntimeStatus
from ditta_core.inference.frame_segmenter import FrameSegmenter
from ditta_core.inference.labelling import take_labels
from ditta_core.inference.restoration import ImageRestorer
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.base import SegmentationModel
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.config import UPDATE_SHARE, StreamConfig, WarmupTrigger
from ditta_core.stream.continuity import Break, Continuity
from ditta_core.stream.generations import Generation, GenerationStore
from ditta_core.stream.heir import Heir, Segmenters
from ditta_core.stream.ignore_mask import IgnoreMask
from ditta_core.stream.network_input import StreamInputSize
from ditta_core.stream.requests import Requests
from ditta_core.stream.runner import AdaptationRunner, InlineRunner
from ditta_core.stream.scene.monitor import SceneMonitor
from ditta_core.stream.scene.signature import SceneDescriber, SceneSignature
from ditta_core.stream.status import StreamStatus, not_renewed, outcome, reason, success
from ditta_core.stream.warmup_clip import WarmupClip
from ditta_core.teacher.config import TeacherConfig
from ditta_core.types import AdaptationReport, Frame, Segmentation, State


class VideoSegmenter:
    """Segments a stream of frames and adapts to it.

    ``push`` may be called by one thread while others request an adaptation, a reset or the status. Requests are carried
    out before the next frame, or by ``poll``; they never wait.

    Args:
        model: Model, or its name; the worker of the runner loads the same one.
        config: How the stream is segmented.
        adaptation: How the model is adapted to the warm-up clip.
        teacher: What the warm-up learns from.
        runner: Where adaptations run; by default inside ``push``, see :class:`InlineRunner`.
        notify: Called with one sentence for every noteworthy event.
        base: The model that ``model`` describes with its add-on, where it is loaded already; shared, never changed.
        generations: Of earlier sessions, of the same base model, to be restored where their scenes come back.
        compiler: Compiles the networks that serve; shared by the streams of a process; None for eager torch.
        ignore_mask: Pixels that have no class and take no part in adaptations.

    Raises:
        FileNotFoundError, ValueError: The model cannot be loaded, see :func:`load_model`.
    """

    def __init__(
        self,
        model: str | ModelSource = "camvid",
        config: StreamConfig = StreamConfig(),
        *,
        adaptation: AdaptationConfig = AdaptationConfig(),
        teacher: TeacherConfig = TeacherConfig(),
        runner: AdaptationRunner | None = None,
        notify: Callable[[str], None] = lambda _: None,
        base: TemporalSegmenter | None = None,
        generations: Iterable[Generation] = (),
        compiler: Compiler | None = None,
        ignore_mask: IgnoreMask | None = None,
    ) -> None:
        self._source = ModelSource(model) if isinstance(model, str) else model
        self._config, self._adaptation, self._teacher = config, adaptation, teacher
        self._runner, self._notify = runner or InlineRunner(), notify
        self._base = base or TemporalSegmenter(load_model(self._source))
        self._segmenters = Segmenters(self._base, compiler)
        self._ignore_mask = ignore_mask or IgnoreMask()
        self._lock, self._requests = threading.Lock(), Requests()
        self._restorer = ImageRestorer()
        describer = SceneDescriber(self.model)
        self._monitor = SceneMonitor(describer, config.scene, describer.later if self.model.reentrant else None)
        self._store, self._continuity = GenerationStore(config.remembered_scenes, generations), Continuity()
        self._last: Frame | None = None  # as the network saw it
        self._certainty: float | None = None
        self._warmup: WarmupClip | None = None
        self._heir: Heir | None = None
        self._generation: Generation | None = None
        self._sizes = StreamInputSize(self.model)
        self._served_since: int | None = None  # stamp of the first frame that the generation served
        self._serve(None)
        self._status = StreamStatus(warmup_frames=config.warmup_frames, remembered=len(self._store))
        self.resume()

    @property
    def status(self) -> StreamStatus:
        """An immutable snapshot; never waits."""
        return self._status

    @property
    def config(self) -> StreamConfig:
        """How the stream is segmented."""
        return self._config

    @property
    def model(self) -> SegmentationModel:
        """The base model."""
        return self._base.model

    @property
    def generation(self) -> Generation | None:
        """The adapted generation that serves; None for the base model. Replaced, never changed."""
        return self._generation

    @property
    def runtime(self) -> RuntimeStatus:
        """What runs the network that serves."""
        return self._serving.runtime

    def push(self, frame: Frame) -> Segmentation:
        """Segment a frame. The confidence of a pixel without a class is 0.

        Raises:
            FrameRejected: The frame is older than the last one, or differs from it in size, frame_id or clock and has
                not been confirmed by others, or is not of the shape of the ignore mask.
        """
        with self._lock:
            ignored = self._ignore_mask.at(frame.size)
            self._check_continuity(frame)
            self._requests.carry_out()
            self._poll_runner()
            self._watch_scene(frame)
            self._maybe_update(frame)
            # The scene is watched on the camera's own image: what sets the thresholds there is the change of the light
            # itself, and a cut has to be known before anything of the last shot is averaged into this frame.
            start, input_size = time.perf_counter(), self._sizes.serving(frame.size, self._config, self._generation)
            seen = self._restorer(frame) if self._config.inference.restoration else frame
            segmentation = self._serving.segment(seen, input_size, self._status.generation)
            self._sizes.times.add(time.perf_counter() - start, input_size, self._serving.runtime)
            if input_size != self._status.input_size:
                self._status = replace(self._status, input_size=input_size)
            self._certainty = float(segmentation.confidence[::4, ::4].mean()) / 255
            # Only now: the scene is watched by how sure the model is, also of what belongs to no class.
            take_labels(segmentation, self.model.classes.unlabelled, self._config.min_confidence, ignored)
            if self._warmup is not None and self._status.state is State.COLLECTING:
                self._collect(self._warmup, seen)
            self._last = seen
            return segmentation

    def poll(self) -> None:
        """Take in requests and the result of an adaptation between frames; does nothing while a frame is segmented."""
        if self._lock.acquire(blocking=False):
            try:
                self._requests.carry_out()
                self._poll_runner()
            finally:
                self._lock.release()

    def request_adaptation(self) -> None:
        """Collect a new clip from the next frame on and adapt the base model to it; what serves goes on until then."""
        self._requests.put("adapt", lambda: self._begin_warmup(WarmupClip()))

    def request_restore(self) -> None:
        """Serve the newest of the generations that are kept.

        Raises:
            ValueError: None is kept.
        """
        generation = self._store.to_restore()
        self._requests.put("restore", lambda: self._restore(generation, "restored"))

    def reset(self) -> None:
        """Go back to the base model until an adaptation is requested or the stream starts over."""
        self._requests.put("reset", lambda: self._return_to_base("base model, not adapted"))

    def reconfigure(self, config: StreamConfig, adaptation: AdaptationConfig, teacher: TeacherConfig) -> None:
        """Change the settings between two frames; an adaptation that is running goes on with its own."""
        self._requests.put("reconfigure", lambda: self._take_settings(config, adaptation, teacher))

    def pause(self, cancel: bool) -> None:
        """Drop a clip that is being collected, with ``cancel`` a running adaptation too; what serves goes on."""
        self._requests.put("pause", lambda: self._interrupt(cancel))

    def resume(self) -> None:
        """Frames come (again): begin a warm-up if none is running or done and the settings ask for one at start."""
        self._requests.put("resume", self._start)

    def close(self) -> None:
        """Cancel what is running and free the runner."""
        with self._lock:
            self._runner.cancel()
            self._runner.close()

    # --- what follows runs under the lock ---------------------------------------------------------------------------

    def _take_settings(self, config: StreamConfig, adaptation: AdaptationConfig, teacher: TeacherConfig) -> None:
        self._config, self._adaptation, self._teacher = config, adaptation, teacher
        self._serving.configure(config.inference)
        self._monitor.config = config.scene
        self._store.resize(config.remembered_scenes)
        self._status = replace(self._status, warmup_frames=config.warmup_frames, remembered=len(self._store))

    @property
    def _adapts(self) -> bool:
        """Whether an adaptation runs, also where what it has made so far serves."""
        return self._trains or self._status.state is State.ADAPTING

    @property
    def _trains(self) -> bool:
        return self._warmup is not None and self._warmup.trains is not None

    def _interrupt(self, cancel: bool) -> None:
        if self._status.state is State.COLLECTING or (cancel and self._adapts):
            self._abort_warmup("warm-up given up: it was stopped")

    # --- does this frame follow the last one? ------------------------------------------------------------------------

    def _check_continuity(self, frame: Frame) -> None:
        """Start over where the stream breaks off with this frame.

        Raises:
            FrameRejected: The frame does not follow the last one, and nothing confirms it yet.
        """
        broken = self._continuity.check(frame, self._config.max_clock_jump)
        if broken is None:
            return
        if broken.kind is Break.AHEAD:
            self._forget_last_shot()
            self._set_status(broken.reason)
        elif broken.kind is Break.CLOCK and self._adapts:
            # A looped bag may be shorter than an adaptation. Another scene is noticed as any change of the scene is.
            self._forget_last_shot()
            self._set_status(f"{broken.reason}; the adaptation goes on")
        else:
            self._return_to_base(f"starting over: {broken.reason}")
            self._start()

    def _watch_scene(self, frame: Frame) -> None:
        """See whether this frame continues the last one, and whether it still shows the scene that was adapted to."""
        config, warmup = self._config, self._warmup
        if config.warmup_on is not WarmupTrigger.SCENE_CHANGE and not config.remembered_scenes:
            return
        seen = self._monitor.observe(frame.image, frame.stamp, self._certainty)
        if seen.cut:
            self._forget_last_shot()
            if warmup is not None and self._status.state is State.COLLECTING:
                if warmup.updates is not None:
                    self._abort_warmup(not_renewed(warmup, "a cut in the clip"))
                elif warmup.restart_after_cut():
                    self._collect_from_next_frame("collecting starts over: a cut in the clip")
        if seen.left and config.warmup_on is WarmupTrigger.SCENE_CHANGE:
            failed = self._generation if seen.same_place else None
            # Elsewhere the base model serves best: docs/ablations.md#which-model-serves-after-a-change-of-scene.
            self._return_to_base(f"the scene changed: {seen.left}")
            self._begin_warmup(WarmupClip(recognise=True, failed=failed))

    def _forget_last_shot(self) -> None:
        """Nothing of the frames so far may reach into the next one."""
        self._serving.memory = None
        self._restorer.reset()

    # --- the warm-up -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin a warm-up if nothing has begun and the settings ask for one at start."""
        begun = self._heir is not None or self._status.state is not State.BASE
        if not begun and self._config.warmup_on is not WarmupTrigger.SERVICE:
            self._begin_warmup(WarmupClip(recognise=True))

    def _maybe_update(self, frame: Frame) -> None:
        """Begin an update where the generation that serves is old enough."""
        if self._served_since is None:
            self._served_since = frame.stamp
        seconds = self._config.update_seconds
        due = seconds > 0 and frame.stamp - self._served_since >= seconds * 1e9
        idle = self._heir is None and self._warmup is None and self._status.state is State.ADAPTED
        if due and self._generation is not None and idle:
            self._begin_warmup(WarmupClip(updates=self._generation))

    def _begin_warmup(self, clip: WarmupClip) -> None:
        """Cancel what is running and collect a clip."""
        self._warmup = clip
        self._collect_from_next_frame(f"collecting {self._config.warmup_frames} frames")

    def _collect_from_next_frame(self, message: str) -> None:
        self._runner.cancel()
        self._heir = None
        self._monitor.begin()
        self._set_status(message, state=State.COLLECTING, collected=0, progress=0.0, losses=())

    def _collect(self, clip: WarmupClip, frame: Frame) -> None:
        """Offer the frame to the clip. Adapt once it is full, unless the scene turns out to be known."""
        if clip.waits(self._serving.runtime.compiling):
            return
        blank = self._adaptation.guarded and not shows_something(frame.image)
        if blank and not clip.seen:
            self._set_status("waiting for frames that show something: now they are of one colour or mere noise")
        if not clip.full(self._config):
            clip.offer(frame.image, frame.stamp, self._config, blank)
        self._status = replace(self._status, collected=len(clip))
        signature = self._monitor.signature
        known = clip.known_in(self._store, signature, self._config)
        if known is not None:
            clip.recognise = False  # it is tried once
            self._restore(known, "back in a scene seen before")
            return
        if clip.recognisable(self._config) or not (clip.recognise and len(self._store)):
            self._runner.expect()
        if clip.full(self._config) and not self._sizes.waits(self._config):
            self._adapt(clip, signature)

    def _adapt(self, clip: WarmupClip, signature: SceneSignature | None) -> None:
        """Submit the clip to the runner."""
        images, wanted = clip.take(), self._config.warmup_frames
        if signature is not None:
            self._monitor.settle(clip.locate(signature))
        of = "" if len(images) >= wanted else f" of {wanted}: the camera stood still"
        self._set_status(f"adapting to {len(images)} frames{of}", state=State.ADAPTING)
        noisiness, size = self._restorer.noisiness, (images.shape[1], images.shape[2])
        adaptation = self._adaptation.after_restoration(noisiness)
        sizes = self._sizes.of_adaptation(size, self._config, noisiness, clip.updates)
        ignored = self._ignore_mask.at(size)
        self._runner.submit(AdaptationJob(images, sizes[0], self._source, self._teacher, adaptation, sizes[1], ignored))
        self._poll_runner()

    def _poll_runner(self) -> None:
        """Take in the progress of a running adaptation, or its result."""
        if self._heir is not None:
            self._take_over(self._heir)
        elif self._warmup is not None and self._adapts:
            news = self._runner.poll()
            if isinstance(news, AdaptationProgress):
                self._status = replace(self._status, progress=news.fraction, losses=news.losses)
            elif isinstance(news, AdaptationResult):
                self._finish(self._warmup, news)

    def _finish(self, warmup: WarmupClip, result: AdaptationResult) -> None:
        """Have the adapted model serve as soon as it is compiled; or say why the model stays as it is."""
        report, state, updated = result.report, result.state, warmup.updates
        if updated is not None and not result.final:
            return  # the generation that serves is the better one until all of it is there
        if state is None and updated:
            self._abort_warmup(not_renewed(warmup, report.reason))
        elif warmup.trains is not None and (state is None or report.refused):
            self._keep_untrained(warmup.trains, report)
        elif state is None:
            self._fail(report, report.reason)
        else:
            try:
                if updated is not None:
                    state = updated.state.towards(state, UPDATE_SHARE, self._base)
                generation = Generation(self._store.next_number, state, report, warmup.scene)
                self._inherit(generation, partial(self._announce, generation, warmup, result.final))
            except Exception as error:  # the result does not come again: whatever it is, the adaptation has ended here
                self._fail(report, reason(error))

    def _inherit(self, generation: Generation, announce: Callable[[], None]) -> None:
        """Have a generation serve as soon as it is compiled for frames like the last one; raises what stops it."""
        segmenter = self._segmenters.of(generation, self._config.inference)
        if self._last is not None:
            segmenter.prepare(self._last, self._sizes.serving(self._last.size, self._config, generation))
        self._heir = Heir(generation, segmenter, announce)
        self._take_over(self._heir)

    def _take_over(self, heir: Heir) -> None:
        """Swap the heir in, with an empty memory, if it is ready."""
        if heir.ready:
            self._heir = None
            heir.segmenter.configure(self._config.inference)
            self._serve(heir.generation, heir.segmenter)
            heir.announce()

    def _announce(self, generation: Generation, warmup: WarmupClip, final: bool) -> None:
        """Say that an adaptation succeeded, or that its first part did, which serves while the rest goes on."""
        before, verb = warmup.updates or warmup.trains, "updated" if warmup.updates else "trained"
        self._store.replace(before, generation)
        note, progress = ("", 1.0) if final else ("; the training goes on", 0.0)
        message = success(generation, before, verb, note)
        warmup.trains = None if final else generation
        self._on_serving(message, warmup, **(outcome(generation.report) | {"progress": progress}))

    def _keep_untrained(self, generation: Generation, report: AdaptationReport) -> None:
        """The generation that serves does so without the training, which was refused or broke off."""
        report = report if report.succeeded else replace(generation.report, reason=report.reason)
        self._warmup, self._generation = None, replace(generation, report=report)
        self._store.replace(generation, self._generation)
        self._set_status(f"generation {generation.number} serves on: {report.reason}", **outcome(report))

    def _fail(self, report: AdaptationReport, reason: str) -> None:
        self._warmup = None
        self._set_status(f"adaptation failed: {reason}", state=State.FAILED, report=report)

    def _abort_warmup(self, message: str) -> None:
        """Drop the clip or the running adaptation; what serves goes on, and is of this age from now on."""
        self._runner.cancel()
        self._heir = None
        self._on_serving(message, collected=0, progress=0.0, losses=())

    # --- what serves -------------------------------------------------------------------------------------------------

    def _return_to_base(self, message: str) -> None:
        """Cancel what is running and serve the base model."""
        self._restorer.reset()
        self._serve(None)
        self._abort_warmup(message)

    def _restore(self, generation: Generation, message: str) -> None:
        """Serve a generation that is kept as soon as it is compiled; a clip or an adaptation is given up."""

        def announce() -> None:
            self._store.touch(generation)
            self._on_serving(f"{message}: generation {generation.number}", **outcome(generation.report))

        try:
            self._inherit(generation, announce)
        except Exception as error:  # such as too little memory: what serves goes on
            self._set_status(f"generation {generation.number} could not be restored: {reason(error)}")
        else:
            self._runner.cancel()
            self._warmup, self._status = None, replace(self._status, training=False)

    def _serve(self, generation: Generation | None, segmenter: FrameSegmenter | None = None) -> None:
        """Go on with a generation, or with the base model, from the next frame on, with an empty memory."""
        self._serving = segmenter or self._segmenters.of(generation, self._config.inference)
        self._generation = generation

    def _on_serving(self, message: str, warmup: WarmupClip | None = None, /, **changes: object) -> None:
        """What serves does so from this frame on, watched for leaving its scene; a training may go on beside it."""
        self._warmup = warmup if warmup is not None and warmup.trains is not None else None
        self._served_since = None if self._last is None else self._last.stamp
        state, number, generation = State.BASE, 0, self._generation
        if generation is None:
            self._monitor.forget()
        else:
            state, number = State.ADAPTED, generation.number
            if generation.scene is not None:
                self._monitor.settle(generation.scene)
        self._set_status(message, state=state, generation=number, remembered=len(self._store), **changes)

    def _set_status(self, message: str, **changes: object) -> None:
        """Change the status and notify."""
        self._status = replace(self._status, message=message, training=self._trains, **changes)  # type: ignore[arg-type]
        self._notify(message)
