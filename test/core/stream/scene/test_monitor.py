"""Scenes and their changes: scores against plain computations and PySceneDetect's, monitors over real drives."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import FILM_CUTS, Image, Watch, colours, dissolve, place, textured

from ditta_core.stream.scene.config import SceneConfig
from ditta_core.stream.scene.known import KnownScene
from ditta_core.stream.scene.monitor import FAST_WINDOW, GATHER_LIMIT, SceneMonitor
from ditta_core.stream.scene.signature import SAME_DISTANCE, SceneDescriber, SceneSignature

# --- leaving a place -------------------------------------------------------------------------------------------------


def test_staying() -> None:
    watch = Watch(colours).see(place(1, 150))
    assert watch.cuts == watch.left == []


def test_cut_to_another_place() -> None:
    watch = Watch(colours).see(place(1, 40)).see(place(7, 60))
    assert watch.cuts == [40]
    assert 1.5 <= watch.delay(40) <= 2
    assert "jumped" in watch.reasons[0]


def test_slow_change_to_another_place() -> None:
    first, second = place(1, 300), place(7, 300)
    fade = [cv2.addWeighted(first[40 + i], 1 - i / 200, second[i], i / 200, 0) for i in range(200)]
    watch = Watch(colours).see(first[:40]).see(fade).see(second[200:])
    assert watch.cuts == []
    assert watch.left and watch.left[0] > 60
    assert "drifted" in watch.reasons[0]


def test_descriptions_beside_the_frame_say_the_same_a_frame_later() -> None:
    first, second = place(1, 300), place(7, 300)
    fade = [cv2.addWeighted(first[40 + i], 1 - i / 200, second[i], i / 200, 0) for i in range(200)]
    with ThreadPoolExecutor(1) as thread:
        asked = []

        def later(image: Image) -> Future[SceneSignature]:
            asked.append(image)
            return thread.submit(colours, image)

        for film in ([*first[:40], *fade, *second[200:]], [*first[:40], *second[:60]], [*first[:40], *second[:60]] * 2):
            plain, beside = Watch(colours).see(film), Watch(colours, later=later).see(film)
            assert plain.left and beside.cuts == plain.cuts and beside.reasons == plain.reasons
            assert all(late - now in (0, 1) for now, late in zip(plain.left, beside.left, strict=True))
    assert len(asked) > 20


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("kind", ["black", "noise", "another place"])
def test_what_lasts_a_second_is_no_change(kind: str, count: int) -> None:
    rng = np.random.default_rng(1)
    view = place(1, 150)
    for start in (40, 80, 120):
        for index in range(start, start + count):
            if kind == "black":
                view[index] = np.zeros_like(view[index])
            elif kind == "noise":
                view[index] = rng.integers(0, 256, view[index].shape, dtype=np.uint8)
            else:
                view[index] = textured(7, index)
    watch = Watch(colours, cooldown=0).see(view)
    assert {40, 80, 120} <= set(watch.cuts)
    assert watch.left == []


def test_flicker_of_the_exposure() -> None:
    view = [(image * (0.5 + 0.5 * (index % 2))).astype(np.uint8) for index, image in enumerate(place(1, 150))]
    assert Watch(colours, cooldown=0).see(view).left == []


def test_fast_pan() -> None:
    view = place(1, 30) + [textured(1, 30 + 37 * index) for index in range(40)] + place(1, 30)
    watch = Watch(colours, cooldown=0).see(view)
    assert watch.cuts
    assert watch.left == []


def test_covered_lens() -> None:
    assert Watch(colours, cooldown=0).see(place(1, 40)).see([np.zeros((90, 120, 3), np.uint8)] * 200).left == []


def test_cooldown_delays_and_does_not_forget() -> None:
    watch = Watch(colours, cooldown=6).see(place(1, 20)).see(place(7, 150))
    first, second = watch.left
    assert 69 <= first <= 75  # settled at 1 s
    assert 60 <= second - first <= 65  # nothing was done about it


def test_confirmation_is_a_parameter() -> None:
    delays = [
        Watch(colours, confirmation=seconds).see(place(1, 40)).see(place(7, 80)).delay(40) for seconds in (0.5, 1.5, 3)
    ]
    assert delays == sorted(delays) and len(set(delays)) == 3
    assert all(seconds <= delay <= seconds + 0.5 for seconds, delay in zip((0.5, 1.5, 3), delays, strict=True))


def test_return_within_the_cooldown() -> None:
    watch = Watch(colours, cooldown=8).see(place(1, 20)).see(place(7, 30)).see(place(1, 150))
    assert watch.left == []


def test_cut_into_what_is_nearer_is_still_another_place() -> None:
    scenes = {seed: colours(textured(seed)) for seed in (1, 7, 4)}
    assert scenes[1].distance(scenes[7]) > scenes[1].distance(scenes[4]) > 0.3
    watch = Watch(colours, cooldown=8).see(place(1, 20)).see(place(7, 30)).see(place(4, 150))
    assert 90 <= watch.left[0] <= 95


class Measured:
    """A monitor of ten frames a second, of which it is set how far apart their descriptions lie."""

    def __init__(self) -> None:
        self.monitor, self.reasons, self.away = SceneMonitor(self.describe, SceneConfig()), list[str](), 0.0
        self.monitor.begin()

    def describe(self, _: Image) -> SceneSignature:
        return SceneSignature(np.full(8, self.away, np.float32), np.ones(8, np.float32))

    def see(self, number: int, dark: bool, away: float) -> bool:
        """Whether there is a cut to the next frame."""
        self.away = away
        image = np.full((90, 160, 3), 40 if dark else 200, np.uint8)
        image[:, 80:] = 200 if dark else 40
        seen = self.monitor.observe(image, number * 10**8, 0.9)
        self.reasons += [seen.left] if seen.left else []
        return seen.cut

    def settle(self) -> KnownScene:
        assert self.monitor.signature is not None
        scene = KnownScene(self.monitor.signature)
        self.monitor.settle(scene)
        return scene


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("distance", [0.28, 0.5])
def test_a_cut_to_the_place_that_is_adapted_to_leaves_nothing(cut: bool, distance: float) -> None:
    """It changes slowly by a distance then."""
    watch = Measured()
    for number in range(620):
        before = cut and number < 15
        if watch.see(number, before, -0.6 if before else distance * min(max(number - 120, 0) / 300, 1)) and number < 20:
            watch.monitor.begin()  # as a warm-up does that starts over
        if number == 25:
            watch.settle()
    assert bool(watch.reasons) == (distance > 0.4) and all("drifted" in reason for reason in watch.reasons)


@pytest.mark.parametrize("update", ["none", "broken off by the cut", "refused later"])
def test_a_cut_away_is_found_whatever_becomes_of_an_update(update: str) -> None:
    """Of a place that is not so far that it had to be found without the cut."""
    watch = Measured()
    for number in range(700):
        assert watch.see(number, number < 300, 0.25 if number >= 300 else 0.0) == (number == 300)
        if number == 20:
            scene = watch.settle()
        if number == 295 and update != "none":
            watch.monitor.begin()
        if number == 299 and update == "refused later":
            watch.monitor.settle(KnownScene(scene.adapted_to))
        if number == {"broken off by the cut": 300, "refused later": 330}.get(update):
            watch.monitor.settle(scene)
    assert watch.reasons and "jumped" in watch.reasons[0]


# --- certainty -------------------------------------------------------------------------------------------------------


def moderate(frames: int) -> list[Image]:
    """The place 1 under another light: not far enough to have left it."""
    return [(image * 0.9).astype(np.uint8) for image in place(1, frames)]


@pytest.mark.parametrize(
    ("fall", "drifted", "left"),
    [(0.05, False, False), (0.2, False, False), (0.4, False, True), (0.0, True, False), (0.2, True, True)],
)
def test_fall_of_certainty(fall: float, drifted: bool, left: bool) -> None:
    watch = Watch(colours, cooldown=0).see(place(1, 100), certainty=0.9)
    watch.see(moderate(300) if drifted else place(1, 300), certainty=0.9 - fall)
    assert bool(watch.left) == left
    if left:
        assert watch.left[0] > 115
        assert f"certainty {0.9 - fall:.2f} after 0.90" in watch.reasons[-1]
        assert watch.reasons[0].startswith("the model has become unsure") == watch.same_place[0] == (not drifted)


def test_another_place_is_not_the_same() -> None:
    watch = Watch(colours, cooldown=0).see(place(1, 40)).see(place(7, 60))
    assert watch.left and not any(watch.same_place)


def test_certainty_is_measured_against_the_level_after_the_adaptation() -> None:
    watch = Watch(colours, cooldown=0, warmup=50).see(place(1, 50), certainty=0.9)
    assert watch.see(place(1, 300), certainty=0.4).left == []


def test_unknown_certainty() -> None:
    watch = Watch(colours, cooldown=0).see(place(1, 100), certainty=0.9)
    assert watch.see(place(1, 100)).see(place(1, 100), certainty=math.nan).left == []


# --- reference -------------------------------------------------------------------------------------------------------


def test_nothing_to_leave() -> None:
    watch = Watch(colours, cooldown=0).see(place(1, 40))
    watch.monitor.forget()
    assert watch.monitor.signature is None
    assert watch.see(place(7, 100)).left == []


def test_signature_is_of_the_frames_since_the_warm_up_began() -> None:
    monitor = SceneMonitor(colours, SceneConfig())
    assert monitor.signature is None and monitor._window(FAST_WINDOW) is None
    for index, image in enumerate(place(7, 12)):
        monitor.observe(image, index * 10**8)
    assert monitor.signature is None
    monitor.begin()
    assert monitor.signature is None
    view = place(1, 8)
    for index, image in enumerate(view):
        monitor.observe(image, (12 + index) * 10**8)
    expected = SceneSignature.pooled(colours(image) for image in view)
    assert monitor.signature is not None
    np.testing.assert_array_equal(monitor.signature.mean, expected.mean)
    np.testing.assert_array_equal(monitor.signature.spread, expected.spread)


def test_a_warm_up_without_end_does_not_grow() -> None:
    monitor = SceneMonitor(colours, SceneConfig())
    monitor.begin()
    for index in range(GATHER_LIMIT + 50):
        monitor.observe(textured(1), index * 10**9)
    assert monitor._gathered is not None and len(monitor._gathered) == GATHER_LIMIT
    assert len(monitor._recent) <= 25


def test_current_place_is_the_one_after_the_cut() -> None:
    watch = Watch(colours).see(place(1, 40)).see(place(7, 30))
    current = watch.monitor._window(FAST_WINDOW)
    assert current is not None
    assert current.distance(colours(textured(7, 15))) < 0.05 < current.distance(colours(textured(1, 40)))


# --- stamps ----------------------------------------------------------------------------------------------------------


def test_stamps_that_do_not_advance() -> None:
    watch = Watch(colours).see(place(1, 40), stamp_of=lambda _: 0).see(place(7, 60), stamp_of=lambda _: 0)
    assert 55 <= watch.left[0] <= 60  # frames count as 0.1 s


def test_repeated_stamps_count_like_others() -> None:
    def twice(index: int) -> int:
        return index // 2 * 10**8

    watch = Watch(colours).see(place(1, 40), stamp_of=twice).see(place(7, 60), stamp_of=twice)
    assert 55 <= watch.left[0] <= 60


def test_a_gap_confirms_nothing() -> None:
    def late(index: int) -> int:
        return index * 10**8 + (10 * 10**9 if index > 40 else 0)

    view = place(1, 100)
    view[40] = textured(7)
    assert Watch(colours, cooldown=0).see(view, stamp_of=late).left == []
    watch = Watch(colours, cooldown=0).see(place(1, 41), stamp_of=late).see(place(7, 60), stamp_of=late)
    assert 1 <= watch.delay(41) <= 2


# --- other places of the scene ---------------------------------------------------------------------------------------


def test_where_it_has_served_is_known_and_what_came_after_is_not() -> None:
    view = place(4, 190)
    watch = Watch(colours, cooldown=0).see(view[:10])
    later, elsewhere = (SceneSignature.pooled(map(colours, frames)) for frames in (view[-10:], place(7, 10)))
    assert watch.scene.distance(later) > SAME_DISTANCE and watch.scene.distance(elsewhere) > SAME_DISTANCE
    watch.see(view[10:])
    assert len(watch.scene.places) > 1 and watch.scene.distance(later) < SAME_DISTANCE
    served = watch.scene.places
    watch.see(place(7, 60))
    assert watch.left and watch.scene.places == served, "the model served there as well, until the change was believed"
    assert watch.scene.distance(elsewhere) > SAME_DISTANCE


# --- any input -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_never_raises(describe: SceneDescriber, data: st.DataObject) -> None:
    monitor = SceneMonitor(describe, SceneConfig(confirmation=0.1, cooldown=0.2))
    for _ in range(data.draw(st.integers(1, 6))):
        size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(2, 2), (1, 700)]))
        stamp = data.draw(st.integers(0, 2**62) | st.just(0))
        flat = data.draw(st.booleans())
        image = np.random.default_rng(stamp).integers(0, 2 if flat else 256, (*size, 3), dtype=np.uint8)
        seen = monitor.observe(image, stamp, data.draw(st.none() | st.floats(0, 1) | st.just(math.nan)))
        assert isinstance(seen.cut, bool) and isinstance(seen.left, str)
        match data.draw(st.sampled_from(["go on", "begin", "settle", "forget"])):
            case "begin":
                monitor.begin()
            case "settle":
                monitor.settle(KnownScene(monitor.signature or describe(image)))
            case "forget":
                monitor.forget()


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from([1, 4, 7]), st.integers(1, 40), st.floats(0.2, 1)), min_size=1, max_size=4
    ),
    certainties=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    sensitivities=st.lists(st.floats(0, 1), min_size=2, max_size=4),
    cooldown=st.sampled_from([0.0, 4.0]),
)
def test_more_sensitive_is_never_later(
    parts: list[tuple[int, int, float]], certainties: list[float], sensitivities: list[float], cooldown: float
) -> None:
    firsts = []
    for sensitivity in sorted(sensitivities):
        watch = Watch(colours, sensitivity=sensitivity, cooldown=cooldown).see(place(1, 20), certainty=0.8)
        for (seed, frames, light), certainty in zip(parts, certainties, strict=False):
            watch.see([(image * light).astype(np.uint8) for image in place(seed, frames)], certainty)
        firsts.append(watch.left[0] if watch.left else math.inf)
    assert firsts == sorted(firsts, reverse=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sensitivity": 1.1}, r"0\.\.1, but got 1\.1"),
        ({"sensitivity": math.nan}, r"0\.\.1"),
        ({"confirmation": -1.0}, "confirmation in seconds"),
        ({"cooldown": math.inf}, "cooldown in seconds"),
    ],
)
def test_settings_out_of_range(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneConfig(**setting)


# --- real drives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drive", ["0001TP", "0006R0", "0016E5"])
def test_drives_through_a_town_are_not_left(
    describe: SceneDescriber, drives: dict[str, list[Image]], drive: str
) -> None:
    assert Watch(describe, rate=1, cooldown=0).see(drives[drive]).left == []


@pytest.mark.parametrize(
    ("first", "second"), [("0001TP", "0006R0"), ("0001TP", "0016E5"), ("0006R0", "0001TP"), ("0016E5", "0006R0")]
)
def test_cut_from_drive_to_drive(
    describe: SceneDescriber, drives: dict[str, list[Image]], first: str, second: str
) -> None:
    watch = Watch(describe).see(dissolve(drives[first][:7])).see(dissolve(drives[second][5:10]))
    assert watch.cuts == [60]
    assert 1.5 <= watch.delay(60) <= 2


def test_occlusions_in_a_drive(describe: SceneDescriber, drives: dict[str, list[Image]]) -> None:
    view = dissolve(drives["0016E5"][:20])
    rng = np.random.default_rng(0)
    for start, count, kind in ((40, 1, "noise"), (70, 3, "noise"), (100, 10, "hand"), (140, 10, "black")):
        for index in range(start, start + count):
            image = view[index] = view[index].copy()
            if kind == "noise":
                image[:] = rng.integers(0, 256, image.shape)
            elif kind == "hand":
                image[40:, 60:400] = (190, 140, 120)
            else:
                image[:] = 0
    watch = Watch(describe, cooldown=0).see(view)
    assert {40, 70, 100, 110, 140, 150} <= set(watch.cuts)
    assert watch.left == []


def test_exposure_in_a_drive(describe: SceneDescriber, drives: dict[str, list[Image]]) -> None:
    view = [
        np.clip(image * (1 + 0.35 * math.sin(1.7 * index)), 0, 255).astype(np.uint8)
        for index, image in enumerate(dissolve(drives["0016E5"][:16]))
    ]
    assert Watch(describe, cooldown=0).see(view).left == []


def test_slow_change_from_a_drive_to_the_film(
    describe: SceneDescriber, drives: dict[str, list[Image]], film: list[Image]
) -> None:
    street = cv2.resize(film[160], (480, 360), interpolation=cv2.INTER_AREA)
    drive = drives["0016E5"]
    fade = [cv2.addWeighted(drive[12 + i], 1 - i / 20, street, i / 20, 0) for i in range(20)]
    watch = Watch(describe, rate=2, warmup=6).see(dissolve([*drive[:12], *fade, *[street] * 15], 2))
    assert watch.cuts == []
    assert 24 < watch.left[0] < 80


def test_shots_of_the_film(describe: SceneDescriber, film: list[Image]) -> None:
    bounds = (0, *FILM_CUTS[:4], 242)
    shots = [film[start:end] for start, end in itertools.pairwise(bounds)]
    parts = [
        [SceneSignature.pooled(describe(image) for image in part) for part in (shot[:8:2], shot[1:8:2])]
        for shot in shots
    ]
    for index, (first, again) in enumerate(parts):
        assert first.distance(again) < SAME_DISTANCE
        assert all(first.distance(other) >= SAME_DISTANCE for place in parts[index + 1 :] for other in place)


def test_drives_are_told_apart(describe: SceneDescriber, drives: dict[str, list[Image]]) -> None:
    signatures = {
        name: [SceneSignature.pooled(map(describe, frames[start : start + 6])) for start in (0, 20, 40)]
        for name, frames in drives.items()
    }
    for name, own in signatures.items():
        for other, theirs in signatures.items():
            if name != other:
                assert all(a.distance(b) >= SAME_DISTANCE for a in own for b in theirs)


def test_a_warm_up_of_frames_that_hardly_follow_each_other_has_a_signature() -> None:
    """Of a noisy camera: its first frames look like a cut, after which the warm-up begins anew."""
    rng = np.random.default_rng(0)
    monitor = SceneMonitor(colours, SceneConfig())
    monitor.begin()
    for index in range(12):
        image = np.clip(textured(1, index) + rng.normal(0, 60, (90, 120, 3)), 0, 255).astype(np.uint8)
        if monitor.observe(image, index * 40_000_000).cut:
            monitor.begin()
    assert monitor.signature is not None
