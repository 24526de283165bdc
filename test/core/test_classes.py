from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ditta_core.classes import ClassList, ClassMap, packaged_names, translate_labels
from ditta_core.types import UNLABELLED

ROOT = Path(__file__).resolve().parents[2]
CITY = ClassList.packaged("cityscapes19")
CAMVID = ClassList.packaged("camvid11")
ADE = ClassList.packaged("ade20k150")
NAVIGATION = ClassList.packaged("navigation")
DATA_SETS = ("cityscapes19", "camvid11", "ade20k150", "vspw124", "voc21")


def test_cityscapes_to_camvid_is_the_documented_map() -> None:
    documented = [3, 4, 1, 7, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10]
    assert list(ClassMap.between(CITY, CAMVID).assignment) == documented


def test_merged_probability_is_the_sum_of_the_members() -> None:
    class_map = ClassMap.between(CITY, CAMVID)
    logits = torch.randn(2, 19, 3, 4)
    merged = class_map.merge_logits(logits).softmax(1)
    expected = torch.zeros(2, 11, 3, 4).index_add_(1, torch.tensor(class_map.assignment), logits.softmax(1))
    torch.testing.assert_close(merged, expected)


def test_subset_leaves_the_rest_unlabelled() -> None:
    class_map = ClassMap.between(CITY, ClassList.parse("[road, {obstacle: [car, person]}]"))
    assert class_map.channels == 3
    logits = torch.full((1, 19, 1, 3), -9.0)
    logits[0, 0, 0, 0] = logits[0, 11, 0, 1] = logits[0, 10, 0, 2] = 9.0  # road, person, sky
    winner = class_map.merge_logits(logits)[0].argmax(0).numpy()
    assert class_map.label_image(winner).tolist() == [[0, 1, UNLABELLED]]


@pytest.mark.parametrize(
    ("data_set", "left_out"),
    [
        ("cityscapes19", set()),
        ("camvid11", set()),
        ("ade20k150", {"ceiling", "chandelier", "light"}),
        ("vspw124", {"ceiling"}),
    ],
)
def test_navigation_takes_every_class_once_or_leaves_it_out_on_purpose(data_set: str, left_out: set[str]) -> None:
    source = ClassList.packaged(data_set)
    owners = [[own for own, members in enumerate(NAVIGATION.members) if name in members] for name in source.names]
    assert {name for name, found in zip(source.names, owners, strict=True) if not found} == left_out
    assert max(map(len, owners)) == 1
    class_map = ClassMap.between(source, NAVIGATION)
    assert list(class_map.assignment) == [found[0] if found else UNLABELLED for found in owners]
    assert set(class_map.unused_outputs) == left_out and not class_map.likely_misspelt()


def test_navigation_has_no_member_that_no_data_set_knows() -> None:
    known = {name for data_set in DATA_SETS for name in ClassList.packaged(data_set).names}
    assert {member for members in NAVIGATION.members for member in members} <= known
    assert NAVIGATION.names == ("drivable", "walkable", "obstacle", "person", "vehicle", "sky", "vegetation")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("road", "drivable"),
        ("sidewalk", "walkable"),
        ("stairs", "obstacle"),
        ("sea", "obstacle"),
        ("person", "person"),
        ("minibike", "vehicle"),
        ("grass", "vegetation"),
    ],
)
def test_navigation_of_a_class_of_ade20k(name: str, expected: str) -> None:
    """One pixel, of which the model is sure, through the merge to the published id."""
    class_map = ClassMap.between(ADE, NAVIGATION)
    logits = torch.zeros(1, 150, 1, 1)
    logits[0, ADE.names.index(name)] = 12.0
    winner = class_map.merge_logits(logits)[0].argmax(0).numpy()
    assert NAVIGATION.names[class_map.label_image(winner).item()] == expected


def test_many_members_outvote_a_single_likelier_class() -> None:
    """The merge is of probabilities: 0.4 road loses against 0.6 spread over obstacles, none above 0.2."""
    class_map = ClassMap.between(ADE, NAVIGATION)
    probabilities = torch.full((150,), 1e-9)
    for name, share in {"road": 0.4, "wall": 0.2, "fence": 0.2, "rock": 0.2}.items():
        probabilities[ADE.names.index(name)] = share
    merged = class_map.merge_logits(probabilities.log().view(1, 150, 1, 1)).softmax(1)[0, :, 0, 0]
    assert merged.argmax() == NAVIGATION.names.index("obstacle")
    assert merged[[0, 2]].tolist() == pytest.approx([0.4, 0.6], abs=1e-5)


def test_ade20k_is_that_of_the_benchmark() -> None:
    """Spot checks against the list and the palette of the SceneParsing benchmark; the mask values are one higher."""
    facts = {
        0: ("wall", (120, 120, 120)),
        2: ("sky", (6, 230, 230)),
        6: ("road", (140, 140, 140)),
        7: ("bed", (204, 5, 255)),
        12: ("person", (150, 5, 61)),
        20: ("car", (0, 102, 200)),
        48: ("skyscraper", (140, 140, 140)),
        80: ("bus", (255, 0, 245)),
        116: ("minibike", (163, 0, 255)),
        127: ("bicycle", (255, 245, 0)),
        136: ("traffic light", (41, 0, 255)),
        149: ("flag", (92, 0, 255)),
    }
    assert len(ADE) == 150
    assert {index: (ADE.names[index], ADE.colors[index]) for index in facts} == facts


@pytest.mark.parametrize("name", packaged_names())
def test_what_users_copy_is_what_is_loaded(name: str) -> None:
    """config/classes links to the packaged files, so that there is one source."""
    assert ClassList.parse(str(ROOT / "config" / "classes" / f"{name}.yaml")) == ClassList.packaged(name)
    assert {path.stem for path in (ROOT / "config" / "classes").iterdir()} == set(packaged_names())


def test_names_are_compared_without_case_spaces_and_punctuation() -> None:
    voc = ClassList.of_names(["background", "diningtable", "tvmonitor", "bed "])
    class_map = ClassMap.between(voc, ClassList.parse("[{furniture: [dining table, Bed]}, TV/monitor]"))
    assert class_map.assignment == (UNLABELLED, 0, 1, 0)


def test_an_exact_name_comes_before_a_similar_one() -> None:
    classes = ClassList.parse("[{a: [hand rail]}, {b: [handrail]}, {c: [x]}]")
    class_map = ClassMap.between(ClassList.of_names(["handrail", "hand rail", "Hand-Rail", "x"]), classes)
    assert class_map.assignment == (1, 0, UNLABELLED, 2)


def test_outputs_of_a_known_data_set_bring_its_colours() -> None:
    spelt = [{"bed": "bed ", "sky": "Sky"}.get(name, name) for name in ADE.names]
    assert ClassList.of_outputs(spelt) == ADE
    assert ClassList.of_outputs(["left", "right"]) == ClassList.of_names(["left", "right"])


def test_identity_passes_the_logits_through() -> None:
    logits = torch.randn(1, 19, 2, 2)
    assert ClassMap.identity(CITY).merge_logits(logits) is logits


def test_many_classes_need_sixteen_bits() -> None:
    many = ClassList.of_names([f"class {index}" for index in range(300)])
    class_map = ClassMap.identity(many)
    label = class_map.label_image(np.array([[0, 255, 299]]))
    assert label.dtype == np.uint16 and label.tolist() == [[0, 255, 299]]
    assert many.colorize(label).shape == (1, 3, 3)
    assert class_map.channels == 300 and not class_map.unused_outputs


def test_many_classes_with_a_rest() -> None:
    """Class 255 is a class like any other, and unlabelled is 65535."""
    source = ClassList.of_names([f"class {index}" for index in range(301)])
    class_map = ClassMap.between(source, ClassList.of_names(source.names[:300]))
    assert class_map.channels == 301 and class_map.unused_outputs == ("class 300",)
    logits = torch.randn(1, 301, 2, 2)
    torch.testing.assert_close(class_map.merge_logits(logits), logits)
    assert class_map.label_image(np.array([[255, 300]])).tolist() == [[255, 65535]]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("camvid11", CAMVID.names),
        ("[road, sky]", ("road", "sky")),
        ("[{name: free, members: [road, sidewalk], color: [1, 2, 3]}]", ("free",)),
        ("{free: [road, sidewalk], person: person}", ("free", "person")),
        ("[1, 2]", ("1", "2")),
        ("[yes, off, null, ~, 1.50, 0x1F, 12:30]", ("yes", "off", "null", "~", "1.50", "0x1F", "12:30")),
        ("{y: on, 007: [true, 1_000]}", ("y", "007")),
    ],
)
def test_ways_to_write_classes(text: str, names: tuple[str, ...]) -> None:
    assert ClassList.parse(text).names == names


def test_class_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("classes:\n- {id: 0, name: road}\n- {id: 1, name: car, color: [9, 8, 7]}\n")
    classes = ClassList.parse(str(path))
    assert classes.names == ("road", "car") and classes.colors[1] == (9, 8, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[road, road]", "every class once"),
        ("[]", "expected a list of classes"),
        ("cityscapes", "packaged class lists .*cityscapes19"),
        ("[{name: road, colour: red}]", "expected the keys"),
        ("[{name: road, color: [1, 2]}]", "expected a colour"),
        ("[{a: [x]}, {b: [x]}]", "'x' in one class"),
        ("[[road], car]", r"expected a class name or a mapping with one in the parameter classes, but got \['road'\]"),
        ("['', car]", "expected a class name"),
        ("[{name: road, id: one}]", "expected the keys"),
        ("[{name: road, true: 1, 2: 3}]", "expected the keys"),
        ("[{name: road, color: red}]", "expected a colour .* for 'road', but got 'red'"),
        ("[{name: road, color: [1, 2, 3.5]}]", "expected a colour"),
        ("[{name: road, color: [1, 2, 256]}]", "expected a colour"),
        ("[{name: road, members: {a: b}}]", "a list of names as members of 'road' in .*, but got {'a': 'b'}"),
        ("{free: [road, [grass]]}", "a list of names as members of 'free'"),
        ("{free: [road], person: [man], free: [grass]}", r"\['free'\] more than once"),
        ("&all [*all]", "expected YAML"),
        pytest.param("[" * 5000, "expected YAML", id="nested too deeply"),
        ("nowhere/classes.yaml", "does not exist"),
        ("[road", "expected YAML"),
    ],
)
def test_bad_class_lists(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassList.parse(text)


def test_class_of_which_the_model_knows_nothing() -> None:
    with pytest.raises(ValueError, match=r"got \['giraffe'\], of which the model knows no member; correct the names"):
        ClassMap.between(CITY, ClassList.parse("[road, giraffe]"))


def test_similar_names_are_suggested() -> None:
    with pytest.raises(
        ValueError, match=r"got \['raod', 'people'\].*; for 'raod' perhaps 'road'; for 'persn' perhaps 'person'"
    ):
        ClassMap.between(CITY, ClassList.parse("[raod, {people: [persn, walkers]}, sky]"))


def test_navigation_of_a_model_that_knows_no_ground() -> None:
    """A robot must not wait for a class that can never come."""
    with pytest.raises(ValueError, match=r"got \['drivable', 'walkable', 'sky'\].*remove these classes"):
        ClassMap.between(ClassList.packaged("voc21"), NAVIGATION)


def test_members_that_are_likely_misspelt() -> None:
    """The class exists by its other member, so that this is no error, but the person would be lost."""
    class_map = ClassMap.between(CITY, ClassList.parse("[road, {obstacle: [car, persn, lorry]}]"))
    assert class_map.likely_misspelt() == {"persn": "person"}
    assert "person" in class_map.unused_outputs


def test_colorize() -> None:
    colored = CAMVID.colorize(np.array([[3, UNLABELLED]], np.uint8))
    assert colored.tolist() == [[[128, 64, 128], [0, 0, 0]]]


@pytest.mark.parametrize(("dtype", "unlabelled"), [(np.uint8, 255), (np.uint16, 65535)])
def test_overlay_mixes_colors_and_leaves_unlabelled_pixels_alone(dtype: type, unlabelled: int) -> None:
    classes = ClassList(("a", "b"), ((200, 0, 0), (0, 100, 0)), (("a",), ("b",)))
    image = np.full((1, 3, 3), 100, np.uint8)
    class_ids = np.array([[0, 1, unlabelled]], dtype)
    assert classes.overlay(image, class_ids, 0.25).tolist() == [[[125, 75, 75], [75, 100, 75], [100, 100, 100]]]
    mixed = classes.overlay(image, class_ids)
    for column, color in enumerate(classes.colors):
        np.testing.assert_allclose(mixed[0, column], 0.65 * np.array(color) + 35, atol=1)
    np.testing.assert_array_equal(mixed[0, 2], image[0, 2])


def test_labels_in_the_published_classes() -> None:
    labels = ClassList.packaged("camvid11")
    np.testing.assert_array_equal(translate_labels(labels, labels)[[0, 10, 11, 255]], [0, 10, 255, 255])
    merged = translate_labels(labels, ClassList.parse("[road, {moving: [car, pedestrian, bicyclist]}]"))
    np.testing.assert_array_equal(merged[[3, 8, 9, 10, 0]], [0, 1, 1, 1, 255])
    with pytest.raises(ValueError, match="zebra"):
        translate_labels(labels, ClassList.parse("[road, zebra]"))


def test_words_that_yaml_takes_for_other_things_are_names() -> None:
    """An output called ``off`` is merged by ``off``, not by the text of a truth value."""
    outputs = ClassList.of_names(["off", "y", "010", "road"])
    class_map = ClassMap.between(outputs, ClassList.parse("{dark: [off, 010], light: [y, road]}"))
    assert class_map.assignment == (0, 1, 0, 1)


def test_what_json_has_besides_texts_is_refused() -> None:
    for value in ([None], [True], [{"name": 3}], [{"name": "a", "color": 5}], [{"name": "a", "members": [1]}], 7, None):
        with pytest.raises(ValueError, match="expected a"):
            ClassList.from_yaml_value(value)
    assert ClassList.from_yaml_value([{"name": "a", "id": 0, "color": [1, 2, 3]}]).colors == ((1, 2, 3),)


def test_a_message_quotes_little_of_a_long_text() -> None:
    nested = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    nested += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    long = "n" * 100_000
    for text in (
        nested + "classes: [*a8]",
        nested + "classes: *a8",
        nested + "classes: {road: *a8}",
        f"[{long}, {long}]",
        f"[{{name: road, {long}: 1}}]",
        f"[{{name: road, color: {long}}}]",
        f"[{{a: [{long}]}}, {{b: [{long}]}}]",
        long,
    ):
        with pytest.raises(ValueError, match="expected") as error:
            ClassList.parse(text)
        assert len(str(error.value)) < 1000


def test_long_lists_are_checked_in_little_time() -> None:
    """Ten times as long takes about ten times as long, not a hundred times."""
    names = [f"class {index}" for index in range(65535)]
    classes = ClassList.of_names(names)
    assert classes.unlabelled == 65535
    class_map = ClassMap.between(classes, classes)
    assert class_map.is_identity
    others = ClassList.of_names([f"thing {index}" for index in range(5000)])
    with pytest.raises(ValueError, match="got \\['thing 0', ") as error:
        ClassMap.between(ClassList.of_names(names[:200]), others)
    assert len(str(error.value)) < 2000


def test_more_classes_than_a_label_image_can_tell_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 classes, as label images have 16 bits, but got 65536"):
        ClassList.of_names([str(index) for index in range(65536)])
