import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from psalm_hf.model.image_processing_psalm import (
    Placement,
    PsalmImageProcessor,
    content_size,
    load_image,
    place_image,
    place_mask,
    place_points,
    place_polygons,
    read_bitmap,
    to_rgb,
)
from psalm_hf.tiny import build_tiny


@pytest.mark.parametrize(
    "original, expected",
    [
        ((512, 1024), (512, 1024)),
        ((10, 20), (512, 1024)),
        ((480, 640), (768, 1024)),
        ((213, 157), (1024, 755)),  # 754.8
        ((157, 213), (755, 1024)),
        ((4000, 1), (1024, 1)),
        ((1, 4000), (1, 1024)),
    ],
)
def test_longer_side_fills_the_square(original, expected):
    assert content_size(original, 1024) == expected


def test_image_is_top_left_and_padding_is_grey():
    canvas = place_image(Image.new("RGB", (2, 4), (255, 0, 0)), 8)
    assert canvas.shape == (8, 8, 3)
    assert (canvas[:, :4] == [255, 0, 0]).all() and (canvas[:, 4:] == 128).all()


def test_points_and_polygons_follow_the_image():
    np.testing.assert_allclose(place_points([[2, 4], [1, 1]], (4, 2), 8), [[4, 8], [2, 2]])
    square = place_polygons([[0, 0, 1, 0, 1, 2, 0, 2]], (4, 2), 8)
    assert square[:4, :2].all() and square.sum() == 8


def test_mask_and_image_agree():
    mask = np.zeros((30, 50), dtype=bool)
    mask[10:20, 5:25] = True
    image = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    placed = place_mask(mask, 100)
    assert placed[:60].sum() == 4 * mask.sum() and not placed[60:].any()
    assert (placed == (place_image(image, 100)[..., 0] > 127))[:60].mean() > 0.98


def test_frame_undoes_the_geometry():
    """A ramp over the content comes back as a ramp over the image, and padding never leaks in."""
    frame = Placement.of_image((30, 50), 80)
    assert frame == Placement((80, 80), (48, 80), (30, 50))
    ramp = torch.arange(20.0).expand(20, 20).clone()
    ramp[12:] = 1e6  # below 48 of 80 there is only padding, but bilinear reaches half a cell up
    restored = frame.restore(ramp[None])[0]
    assert restored.shape == (30, 50)
    expected = (torch.arange(50) + 0.5) / 50 * 20 - 0.5
    torch.testing.assert_close(restored[:26, 2:-2], expected[2:-2].expand(26, -1), atol=1e-3, rtol=0)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that promises this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("megapixels", [100, 400])  # PIL only warns up to twice its limit of 89
def test_decompression_bomb_is_refused(tmp_path, megapixels):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(1000 * megapixels, 1000))
    with pytest.raises(ValueError, match=r"bomb\.png.*; make it smaller, or in Python set .*MAX_IMAGE_PIXELS"):
        load_image(path)


def test_unreadable_files_are_named(tmp_path):
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo, "JPEG")
    (tmp_path / "truncated.jpg").write_bytes(photo.getvalue()[:-800])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "short.png").write_bytes(png_of_size(20, 20)[:40])
    for name, message in [
        ("truncated.jpg", "truncated"), ("text.jpg", "cannot identify"), ("short.png", "not an image"), ("none.jpg", "no such file")
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_image(tmp_path / name)


def test_load_image_turns_upright_but_the_processor_does_not(tmp_path):
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = image.getexif()
    exif[0x0112] = 6  # stored lying on its side
    image.save(tmp_path / "photo.png", exif=exif)
    assert load_image(tmp_path / "photo.png").size == (2, 4)
    with Image.open(tmp_path / "photo.png") as opened:
        assert to_rgb(opened).size == (4, 2)


def test_broken_exif_does_not_make_an_image_unreadable(tmp_path):
    for suffix in ("png", "jpg"):
        path = tmp_path / f"broken.{suffix}"
        Image.new("RGB", (4, 2), (9, 9, 9)).save(path, exif=b"Exif\0\0garbagegarbage")
        assert load_image(path).size == (4, 2)


def test_broken_address_is_named():
    with pytest.raises(ValueError, match="exa mple"):
        load_image("http://exa mple.com/x.png")


def test_load_image_takes_file_objects_and_urls(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (3, 2), (255, 0, 0)).save(path)
    with open(path, "rb") as file:
        assert load_image(file).size == (3, 2)
    with pytest.raises(ValueError, match="127.0.0.1:9.*not an image that can be read"):
        load_image("http://127.0.0.1:9/red.png", timeout=1)


def palette_image() -> Image.Image:
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30] + [0] * 765)
    return image


def palette_image_with_transparency() -> Image.Image:
    image = palette_image()
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("RGB", (1, 1), (1, 2, 3)), (1, 2, 3)),
        (Image.new("1", (1, 1), 1), (255, 255, 255)),
        (Image.new("L", (1, 1), 7), (7, 7, 7)),
        (Image.new("LA", (1, 1), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (9, 8, 7, 255)), (9, 8, 7)),
        (palette_image(), (10, 20, 30)),
        (palette_image_with_transparency(), (255, 255, 255)),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("I;16", (1, 1), 257 * 100), (100, 100, 100)),
        (Image.fromarray(np.array([[257 * 100]], dtype=">u2")), (100, 100, 100)),
        (Image.fromarray(np.array([[200]], dtype=">u2")), (1, 1, 1)),  # nearly black, although it would fit into 8 bit
        (Image.new("I", (1, 1), 257 * 100), (100, 100, 100)),
        (Image.new("I", (1, 1), 100), (100, 100, 100)),
        (Image.new("F", (1, 1), 0.5), (128, 128, 128)),
        (np.full((1, 1), 5, dtype=np.uint8), (5, 5, 5)),
        (np.full((1, 1, 1), 5, dtype=np.uint8), (5, 5, 5)),
        (np.array([[[1, 2, 3]]], dtype=np.uint8), (1, 2, 3)),
        (np.array([[[1, 2, 3, 255]]], dtype=np.uint8), (1, 2, 3)),
        (np.array([[[1, 2, 3, 0]]], dtype=np.uint8), (255, 255, 255)),
        (np.array([[[0.0, 0.5, 1.0]]]), (0, 128, 255)),
        (np.full((1, 1), 257 * 3, dtype=np.uint16), (3, 3, 3)),
        (np.full((1, 1), True), (255, 255, 255)),
        (torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None], (1, 2, 3)),
        (torch.tensor([[[1, 2, 3]]], dtype=torch.uint8).expand(2, 2, 3), (1, 2, 3)),
    ],
)
def test_every_kind_of_image_becomes_rgb(image, expected):
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    assert converted.getpixel((0, 0)) == expected


def write_tiff_of_12_bits(path, numbers):
    """A row of grey pixels of 12 bits each, two in three bytes, as cameras write them."""
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    tags = {256: len(numbers), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed)


def test_a_tiff_of_12_bits_is_scaled_by_its_tag_and_not_by_its_brightest_pixel(tmp_path):
    for numbers, expected in (([0, 4095, 2048, 100], [0, 255, 128, 6]), ([0, 100, 50, 16], [0, 6, 3, 1])):
        write_tiff_of_12_bits(tmp_path / "grey.tif", numbers)
        for image in (load_image(tmp_path / "grey.tif"), to_rgb(Image.open(tmp_path / "grey.tif"))):
            assert np.asarray(image)[0, :, 0].tolist() == expected


def test_numbers_of_unknown_range_are_stretched():
    image = Image.fromarray(np.array([[-5.0, 995.0]], dtype=np.float32))
    assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "image, message",
    [
        ("photo.jpg", "path 'photo.jpg'; open it with load_image"),
        (None, "got NoneType"),
        (np.zeros((2, 2, 2, 3), dtype=np.uint8), r"shape \(2, 2, 2, 3\)"),
        (np.zeros((5, 6, 7), dtype=np.uint8), "channels"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "no pixels"),
        (np.array([[np.nan, 1.0]]), "not finite"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(ValueError, match=f"image 3: .*{message}"):
        to_rgb(image, "image 3")


def test_masks_of_every_form_are_read():
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for height, width in [(7, 5), (40, 300), (1, 1), (64, 64)]:
        bitmap = np.kron(rng.random((height, width)) < 0.5, np.ones((1, 3))) > 0
        compressed = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
        flat = bitmap.ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        forms = [
            bitmap,
            torch.from_numpy(bitmap),
            bitmap.astype(np.uint8) * 255,
            Image.fromarray(bitmap),
            compressed,
            compressed | {"counts": compressed["counts"].decode()},
            {"size": list(bitmap.shape), "counts": runs.tolist()},
        ]
        for form in forms:
            np.testing.assert_array_equal(read_bitmap(form, bitmap.shape, "mask"), bitmap)


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.zeros((3, 2)), r"shape \(3, 2\).*\(2, 3\)"),
        ([[0, 1]], "got list"),
        (np.full((2, 3), np.nan), "not finite"),
        ({"counts": [6]}, "'size'.*'counts'"),
        ({"size": [2, 3], "counts": [5]}, "cover 5 pixels, but its size 2 x 3 has 6"),
        ({"size": [2, 3], "counts": [8, -2]}, "a run of 8 pixels"),
        ({"size": [2, 3], "counts": ""}, "cover 0 pixels"),
        ({"size": [2, 3], "counts": "zzz"}, "no compressed run lengths"),
        ({"size": [3, 2], "counts": [6]}, "size 3 x 2, expected 2 x 3"),
    ],
)
def test_broken_masks_are_named(mask, message):
    with pytest.raises(ValueError, match=f"mask 4: .*{message}"):
        read_bitmap(mask, (2, 3), "mask 4")


def test_image_processor_normalises_in_pixel_units():
    processor = PsalmImageProcessor(size={"longest_edge": 4}, image_mean=[100, 100, 100], image_std=[10, 20, 50])
    pixels = processor(Image.new("RGB", (4, 2), (150, 150, 150)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 4, 4) and pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0].tolist() == [5, 2.5, 1]
    torch.testing.assert_close(pixels[0, :, 3, 0], torch.tensor([2.8, 1.4, 0.56]))


def test_image_processor_survives_saving(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    processor = PsalmImageProcessor(size={"longest_edge": 96}, image_mean=[1.5, 2, 3])
    processor.save_pretrained(tmp_path)
    for loaded in (PsalmImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is PsalmImageProcessor
        np.testing.assert_array_equal(loaded(image)["pixel_values"], processor(image)["pixel_values"])


@pytest.mark.parametrize("size", [{"height": 4, "width": 4}, {"longest_edge": 0}, 512])
def test_image_processor_knows_one_geometry(size):
    with pytest.raises(ValueError, match="longest_edge"):
        PsalmImageProcessor(size=size)


def test_images_of_other_modes_are_converted_unless_told_not_to():
    grey, coloured = Image.new("L", (9, 6), 80), Image.new("RGB", (9, 6), (80, 80, 80))
    processor = PsalmImageProcessor(size={"longest_edge": 32})
    assert processor.do_convert_rgb is True
    expected = processor(coloured, return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(grey, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(processor(coloured, do_convert_rgb=False, return_tensors="pt")["pixel_values"], expected)
    strict = PsalmImageProcessor(size={"longest_edge": 32}, do_convert_rgb=False)
    assert strict.to_dict()["do_convert_rgb"] is False
    for image, mode in ((grey, "L"), (np.zeros((6, 9, 4), dtype=np.uint8), "RGBA")):
        with pytest.raises(ValueError, match=f"has the mode {mode}, expected RGB; convert it, or let do_convert_rgb=True do so"):
            strict(image, return_tensors="pt")
    assert torch.equal(strict(grey, do_convert_rgb=True, return_tensors="pt")["pixel_values"], expected)


def test_a_processor_converts_images_as_its_image_processor_says():
    _, processor = build_tiny()
    grey = Image.new("L", (90, 60), 80)
    processor(images=grey, expressions=["a"])
    processor.image_processor.do_convert_rgb = False
    with pytest.raises(ValueError, match="image 0: has the mode L, expected RGB"):
        processor(images=grey, expressions=["a"])
    with pytest.raises(ValueError, match="image 0, region 0, its region image: has the mode L"):
        processor(images=grey.convert("RGB"), regions=[{"point": (3, 4)}], region_images=grey)
