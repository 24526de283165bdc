"""Image files: what is read is what was written, and a damaged file is refused by its name."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from trees import HEIGHT, WIDTH, write_array, write_image, write_labels

from ditta_core.datasets.decoding import read_first_channel, read_image, read_label_image
from ditta_core.datasets.names import DataWarning
from ditta_core.datasets.video import ImageFolder


@pytest.mark.parametrize("colours", [2, 4, 16, 256])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_image_gives_the_positions_in_its_palette(tmp_path: Path, transparent: bool, colours: int) -> None:
    """As Pillow writes and reads it, with as few bits as do; the palette has the same colour several times."""
    image = pytest.importorskip("PIL.Image")
    values = np.random.default_rng(0).integers(0, colours, (HEIGHT, WIDTH - 1)).astype(np.uint8)
    picture = image.fromarray(values, "L").convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0] * (colours // 2))
    picture.putdata(values.ravel().tolist())
    path = tmp_path / "palette.png"
    bits = {2: 1, 4: 2, 16: 4, 256: 8}[colours]
    picture.save(path, bits=bits, **({"transparency": 0} if transparent else {}))
    assert (image.open(path).mode, path.read_bytes()[24]) == ("P", bits)
    np.testing.assert_array_equal(np.asarray(image.open(path)), values)
    np.testing.assert_array_equal(read_label_image(path), values)


def test_a_grey_image_gives_its_values(tmp_path: Path) -> None:
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    np.testing.assert_array_equal(read_label_image(write_array(tmp_path / "grey.png", values)), values)


def test_what_holds_no_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one 8-bit value per pixel, but .*colours\.png has uint8 \[16, 24, 3\]"):
        read_label_image(write_image(tmp_path / "colours.png"))
    wide = write_array(tmp_path / "wide.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(ValueError, match=r"wide\.png has uint16"):
        read_label_image(wide)
    lossy = write_labels(tmp_path / "lossy.jpg", np.full((HEIGHT, WIDTH), 3, np.uint8))
    with pytest.raises(ValueError, match=r"lossy\.jpg is no PNG file, which alone keeps class ids as they are"):
        read_label_image(lossy)
    for name, content in {"text.png": b"not an image", "nothing.png": b"", "short.png": b"\x89PNG\r\n\x1a\n\0"}.items():
        (tmp_path / name).write_bytes(content)
        for read in (read_label_image, read_image):
            with pytest.raises(ValueError, match=f"expected a .*image, but .*{name}"):
                read(tmp_path / name)


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    noise = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    return cv2.resize(noise, (300, 200), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kept", [0.02, 0.4, 0.8, 0.97])
def test_a_file_that_is_cut_short_is_refused(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str, kept: float
) -> None:
    path = write_array(tmp_path / f"7{suffix}", photograph)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"expected a .*image, but .*7\{suffix}"):
        read_image(path)
    path.write_bytes(content)
    assert read_image(path).shape == (200, 300, 3)


def test_the_end_of_a_thumbnail_is_not_that_of_the_image(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    _, small = cv2.imencode(".jpg", photograph[:16, :16])
    _, large = cv2.imencode(".jpg", photograph)
    inside = b"Exif\0\0" + small.tobytes()
    content = large.tobytes()[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside + large.tobytes()[2:]
    path = tmp_path / "camera.jpg"
    path.write_bytes(content + bytes(100))  # some cameras fill the file up
    assert read_image(path).shape == (200, 300, 3)
    path.write_bytes(content[:-200])
    with pytest.raises(ValueError, match=r"camera\.jpg is cut short; copy it again"):
        read_image(path)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("damage", ["gap", "surplus"])
def test_a_jpeg_that_libjpeg_repairs_is_refused(
    tmp_path: Path, photograph: NDArray[np.uint8], progressive: int, damage: str
) -> None:
    """A part was lost or came twice: libjpeg makes up the rest, and says so on standard error alone."""
    _, data = cv2.imencode(".jpg", photograph, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])
    content, middle = bytearray(data.tobytes()), len(data) // 2
    content[middle : middle + 400] = content[middle : middle + 400] * 2 if damage == "surplus" else b""
    path = tmp_path / "0012.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"0012\.jpg is damaged \(Corrupt JPEG data: .*\); copy it again"):
        read_image(path)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_changed_bits_of_a_png_are_found_by_its_checksums(
    tmp_path: Path, photograph: NDArray[np.uint8], place: float
) -> None:
    for read, array in ((read_image, photograph), (read_label_image, photograph[:, :, 0])):
        path = write_array(tmp_path / "3.png", array)
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 8
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"3\.png is not one, or is damaged"):
            read(path)


def test_several_threads_read(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    """The damaged one of two files is found by whoever reads it, and by nobody else."""
    whole = write_array(tmp_path / "whole.jpg", photograph)
    content = bytearray(whole.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = b""
    (tmp_path / "damaged.jpg").write_bytes(content)
    found: list[str] = []

    def read(name: str) -> None:
        for _ in range(20):
            with suppress(ValueError):
                read_image(tmp_path / name)
                continue
            found.append(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in ("whole.jpg", "damaged.jpg") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["damaged.jpg"] * 40


def claimed(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG file that claims a size, with a valid checksum, and holds a few rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(70_000, 70_000), (20_001, 5_000), (1, 2**31 - 1)])
@pytest.mark.parametrize("read", [read_image, read_label_image, read_first_channel])
def test_a_size_that_is_only_claimed_takes_no_memory(
    tmp_path: Path, size: tuple[int, int], read: Callable[[Path], NDArray[np.uint8]]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claimed(*size))
    with pytest.raises(ValueError, match=r"expected at most 100 megapixels, but .*bomb\.png claims "):
        read(path)


def test_a_header_without_a_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    path.write_bytes(claimed(0, 10))
    with pytest.raises(ValueError, match=r"none\.png has bytes that are damaged"):
        read_image(path)


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 1023), (14, 16383), (16, 65535)])
def test_images_of_fewer_than_16_bits_fill_the_range(tmp_path: Path, bits: int, white: int) -> None:
    ramp = np.linspace(0, white, 240).round().astype(np.uint16).reshape(10, 24)
    for index, factor in enumerate((0.5, 0.9, 1.0)):
        write_array(tmp_path / f"{index}.png", (ramp * factor).astype(np.uint16))
    with pytest.warns(DataWarning, match=f"{white} is taken for white") if bits < 16 else nullcontext():
        folder = ImageFolder(tmp_path, 5.0)
        shown = folder.image(2)
    expected = np.round(ramp * 255.0 / white)
    assert np.abs(shown[:, :, 0].astype(float) - expected).max() <= 1
    assert abs(int(folder.image(0).max()) - 128) <= 1, "all images have one scale"
    assert folder.as_in_files == (bits == 16)
