from __future__ import annotations

import json
import multiprocessing
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst
from safetensors.numpy import save_file
from small_generations import BASE, REPORT, forged, generation

from ditta_core.adaptation.state import AdaptedState, changed_tensors
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream import generation_file
from ditta_core.stream.generation_file import GenerationError, load_generation, model_fingerprint, save_generation
from ditta_core.stream.generations import Generation
from ditta_core.stream.scene.known import MOST_PLACES, KnownScene
from ditta_core.stream.scene.signature import SceneSignature
from ditta_core.types import AdaptationReport

# --- the fingerprint -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> TemporalSegmenter:
    return TemporalSegmenter(load_model(ModelSource()))


def test_the_same_model_has_the_same_fingerprint(base: TemporalSegmenter) -> None:
    again = TemporalSegmenter(load_model(ModelSource()))
    again.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert model_fingerprint(again) == model_fingerprint(base)
    assert len(model_fingerprint(base)) == 64


def changed_weight(segmenter: TemporalSegmenter) -> None:
    with torch.no_grad():
        weight = next(iter(segmenter.model.parameters()))
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], weight[0, 0, 0, 0] + 1)


def changed_statistics(segmenter: TemporalSegmenter) -> None:
    next(buffer for name, buffer in segmenter.named_buffers() if name.endswith("running_mean"))[-1] += 1


def changed_precision(segmenter: TemporalSegmenter) -> None:
    segmenter.half()


def changed_window(segmenter: TemporalSegmenter) -> None:
    segmenter.radius += 1


@pytest.mark.parametrize("change", [changed_weight, changed_statistics, changed_precision, changed_window])
def test_another_model_has_another_fingerprint(
    change: Callable[[TemporalSegmenter], None], base: TemporalSegmenter
) -> None:
    other = TemporalSegmenter(load_model(ModelSource()))
    change(other)
    assert model_fingerprint(other) != model_fingerprint(base)


def test_other_classes_have_another_fingerprint(base: TemporalSegmenter) -> None:
    first, *others = base.model.classes.names
    lists = [
        {first: [first], "rest": others},
        {"first": [first], "rest": others},  # another name
        {first: [first, others[0]], "rest": others[1:]},  # other members under the same names
    ]
    models = [load_model(ModelSource(classes=json.dumps(classes))) for classes in lists]
    assert len({model_fingerprint(segmenter) for segmenter in [base, *map(TemporalSegmenter, models)]}) == 4


# --- files -----------------------------------------------------------------------------------------------------------

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = nst.arrays(np.float32, nst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3), elements=FINITE)
SIGNATURE = "signature.mean", "signature.spread"
SCENES = st.integers(0, 5).flatmap(
    lambda length: st.lists(
        st.builds(SceneSignature, *[nst.arrays(np.float32, length, elements=FINITE)] * 2),
        min_size=1,
        max_size=MOST_PLACES,
    ).map(lambda places: KnownScene(places[0], places[1:]))
)
COUNTS, SECONDS = st.integers(0, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
REPORTS = st.builds(
    AdaptationReport,
    succeeded=st.booleans(),
    reason=st.text(),
    frames=COUNTS,
    steps=COUNTS,
    seconds=SECONDS,
    target_seconds=SECONDS,
    losses=st.lists(SECONDS).map(tuple),
    objects=COUNTS,
    refused=st.text(),
)
ANY_ORDER = ARRAYS | ARRAYS.map(np.transpose) | nst.arrays(np.float32, (3, 4), elements=FINITE).map(lambda a: a[:, ::2])
STATES = st.builds(AdaptedState, st.dictionaries(st.text(max_size=8), ANY_ORDER, max_size=4), st.booleans())
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_equal(one: Generation, other: Generation) -> None:
    assert (one.number, one.report, one.state.temporal_branch) == (
        other.number,
        other.report,
        other.state.temporal_branch,
    )
    assert one.state.tensors.keys() == other.state.tensors.keys()
    pairs = [(value, other.state.tensors[name]) for name, value in one.state.tensors.items()]
    assert (one.scene is None) == (other.scene is None)
    if one.scene is not None and other.scene is not None:
        for place, expected in zip(one.scene.places, other.scene.places, strict=True):
            pairs += [(place.mean, expected.mean), (place.spread, expected.spread)]
    for value, expected in pairs:
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        assert value.tobytes() == expected.tobytes()  # to the bit: -0.0 is not 0.0


@IN_ONE_FOLDER
@given(st.builds(Generation, st.integers(1, 2**31 - 1), STATES, REPORTS, st.none() | SCENES))
def test_what_is_saved_comes_back(tmp_path: Path, saved: Generation) -> None:
    file = tmp_path / "generation"
    save_generation(file, saved, BASE)
    assert_equal(load_generation(file, BASE), saved)
    assert [path.name for path in tmp_path.iterdir()] == ["generation"]


def test_a_restored_model_computes_what_the_saved_one_did(tmp_path: Path, base: TemporalSegmenter) -> None:
    adapted = TemporalSegmenter(load_model(ModelSource()))
    with torch.no_grad():
        for parameter in adapted.model.decoder_parameters():
            parameter.mul_(1.01)
    state = AdaptedState(dict(changed_tensors(adapted, base)), temporal_branch=False)
    file = tmp_path / "states" / "front" / "generation.safetensors"  # folders that are not there yet
    save_generation(file, Generation(3, state, REPORT), model_fingerprint(base))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch, about arrays that cannot be written to
        restored = load_generation(file, model_fingerprint(base)).state.apply(base)
    pixels = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(restored.model(pixels), adapted.model(pixels), rtol=0, atol=0)
        assert not torch.equal(restored.model(pixels), base.model(pixels))


@IN_ONE_FOLDER
@given(st.data())
def test_any_changed_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(7, 1.0, 2.0), BASE)
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    with pytest.raises(
        GenerationError,
        match=r"^expected a (saved )?generation .*but .*; (delete it, then |load that model, or )?adapt and",
    ):
        load_generation(file, BASE)


@IN_ONE_FOLDER
@given(st.data())
def test_any_other_length_is_found(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(7, 1.0), BASE)
    content = file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(
        GenerationError, match=r"is damaged or something else: .*; delete it, then adapt and save again"
    ):
        load_generation(file, BASE)
    file.write_bytes(content + data.draw(st.binary(min_size=1)))
    with pytest.raises(GenerationError, match="its checksum does not fit its content"):
        load_generation(file, BASE)


@IN_ONE_FOLDER
@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda text: len(text).to_bytes(8, "little") + text))
def test_garbage_is_no_generation(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "generation"
    file.write_bytes(content)
    with pytest.raises(GenerationError, match=r"expected a generation saved by ditta_ros, but .* is damaged"):
        load_generation(file, BASE)


def test_what_is_there_but_is_none(tmp_path: Path) -> None:
    with pytest.raises(
        GenerationError, match=r"expected a saved generation, but .*none does not exist; save one first"
    ):
        load_generation(tmp_path / "none", BASE)
    with pytest.raises(GenerationError, match=r"expected a saved generation in .*, but got: it is no regular file"):
        load_generation(tmp_path, BASE)
    other = tmp_path / "weights"
    save_file({"weight": np.zeros(3, np.float32)}, other, {"format": "pt"})
    with pytest.raises(GenerationError, match="weights is damaged or something else: it has no header of this package"):
        load_generation(other, BASE)
    save_file({"weight": np.zeros(3, np.float32)}, other)
    with pytest.raises(GenerationError, match="it has no header of this package"):
        load_generation(other, BASE)


def test_a_generation_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(), BASE)
    expected = "expected a generation of the base model aaaaaaaaaaaa, but .* belongs to bbbbbbbbbbbb: another model"
    with pytest.raises(GenerationError, match=expected):
        load_generation(file, "a" * 64)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "generation"
    with monkeypatch.context() as future:
        future.setattr(generation_file, "FORMAT", "4")
        save_generation(file, generation(), BASE)
    expected = (
        "expected a generation in format 1, 2 or 3 of ditta_ros, but .* has format .*4.* of .*ditta_ros.*; adapt and"
    )
    with pytest.raises(GenerationError, match=expected):
        load_generation(file, BASE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["tensor", "signature"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float, where: str) -> None:
    broken = generation(1, 1.0)
    assert broken.scene is not None
    (broken.state.tensors["bias"] if where == "tensor" else broken.scene.places[0].spread)[0] = value
    save_generation(tmp_path / "generation", broken, BASE)
    name = r"state\.bias" if where == "tensor" else r"signature\.spread"
    with pytest.raises(GenerationError, match=rf"expected finite numbers, but got NaN or infinity in \['{name}'\]"):
        load_generation(tmp_path / "generation", BASE)


@pytest.mark.parametrize(
    ("tensors", "changes", "expected"),
    [
        ({"weight": np.zeros(3, np.float32)}, {}, r"expected float32 tensors of a generation, but got \['weight'\]"),
        ({"state.bias": np.zeros(3)}, {}, r"expected float32 tensors of a generation, but got \['state.bias'\]"),
        ({"signature.mean": np.zeros((1, 3), np.float32)}, {}, r"of one shape, .*, but got \(1, 3\) and \(1, 1\)"),
        (dict.fromkeys(SIGNATURE, np.ones((9, 3), np.float32)), {}, r"of 1 to 8 places, but got \(9, 3\) and"),
        (dict.fromkeys(SIGNATURE, np.ones((0, 3), np.float32)), {}, r"of 1 to 8 places, but got \(0, 3\) and"),
        (dict.fromkeys(SIGNATURE, np.ones((1, 1, 3), np.float32)), {}, r"of one shape, .*, but got \(1, 1, 3\) and"),
        (dict.fromkeys(SIGNATURE, np.array(1, np.float32)), {}, r"of one shape, .*, but got \(\) and \(\)"),
        ({}, {"number": "one"}, "invalid literal for int"),
        ({}, {"temporal_branch": "1"}, "expected true or false and a report, but got 1"),
        ({}, {"report": "{"}, "Expecting property name"),
        ({}, {"report": '{"losses": [], "colour": 1}'}, "unexpected keyword argument 'colour'"),
        ({}, {"report": "{}"}, "missing 2 required positional arguments: 'succeeded' and 'reason'"),
    ],
)
def test_content_that_does_not_fit_together(
    tmp_path: Path, tensors: dict[str, np.ndarray], changes: dict[str, str], expected: str
) -> None:
    forged(tmp_path / "generation", tensors, **changes)
    with pytest.raises(GenerationError, match=f"is damaged or something else: .*{expected}.*; delete it"):
        load_generation(tmp_path / "generation", BASE)


@pytest.mark.parametrize("written", ["1", "2"])
def test_the_one_place_of_an_older_file_is_read(tmp_path: Path, written: str) -> None:
    one_place = {"signature.mean": np.array([2, 3], np.float32), "signature.spread": np.array([4, 5], np.float32)}
    forged(tmp_path / "generation", one_place, format=written)
    scene = load_generation(tmp_path / "generation", BASE).scene
    assert scene is not None
    (place,) = scene.places
    assert (place.mean.tolist(), place.spread.tolist()) == ([2, 3], [4, 5])


def test_a_report_of_before_refusals_were_told_apart_is_read(tmp_path: Path) -> None:
    report = asdict(REPORT)
    del report["refused"]
    forged(tmp_path / "generation", {}, report=json.dumps(report))
    assert load_generation(tmp_path / "generation", BASE).report == REPORT


def test_tensors_of_another_shape_are_refused_by_the_model(tmp_path: Path, base: TemporalSegmenter) -> None:
    save_generation(tmp_path / "generation", generation(), BASE)
    with pytest.raises(ValueError, match="expected tensors of this model, but got 2 of another one"):
        load_generation(tmp_path / "generation", BASE).state.apply(base)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(1), BASE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(generation_file.os, "fsync", full)
        expected = "expected to write .* bytes to .*generation, but got: No space left on device; make room there"
        with pytest.raises(GenerationError, match=expected):
            save_generation(file, generation(2), BASE)
    assert load_generation(file, BASE).number == 1
    assert [path.name for path in tmp_path.iterdir()] == ["generation"]
    with pytest.raises(GenerationError, match=r"expected to write .* bytes to .*; make room there or name another"):
        save_generation(file / "beneath a file", generation(2), BASE)


def keep_writing(file: Path, number: int, ended: Event) -> None:
    while not ended.is_set():
        save_generation(file, generation(number, float(number), size=300), BASE)


def test_readers_find_whole_files_while_several_processes_write(tmp_path: Path) -> None:
    file = tmp_path / "generation"
    save_generation(file, generation(1, 1.0, size=300), BASE)
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    writers = [context.Process(target=keep_writing, args=(file, number, ended)) for number in (2, 3)]
    for writer in writers:
        writer.start()
    found = set[int]()
    deadline = time.monotonic() + 60
    try:
        while not {2, 3} <= found and time.monotonic() < deadline:
            read = load_generation(file, BASE)
            assert read.scene is not None
            assert (read.state.tensors["model.weight"] == read.number).all()
            assert read.scene.adapted_to.mean.tolist() == [read.number]
            found.add(read.number)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert found >= {2, 3}
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["generation"]


def test_threads_of_one_process_may_save_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "generation"
    problems: list[Exception] = []

    def write(number: int) -> None:
        try:
            for _ in range(5):
                save_generation(file, generation(number), BASE)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert load_generation(file, BASE).number in range(1, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["generation"]
