"""One geometry for images, masks, points and polygons, and its inverse for predictions.

The longer side becomes `image_size`, the shorter one follows, and the rest of the square (right and bottom) is padding. Sizes
are (height, width) everywhere, points are (x, y) in pixels of the image as given. Nothing here rotates an image.

Source: preprocessing of PSALM (github.com/zamling/PSALM, d5dbfda), that is detectron2's shortest-edge resize with a cap.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypedDict

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, float64
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature

from .addresses import is_address, read_address
from .bounded_files import open_image_file
from .checked_masks import run_lengths

Size = tuple[int, int]

PAD_VALUE = 128  # grey level of the padding BEFORE normalisation, so padding is not zero for the network


# Forward: image, mask, points, polygons -> the padded square


def content_size(original_size: Size, image_size: int) -> Size:
    """(height, width) that an image takes inside the padded square; each side is at least one pixel.

    The arithmetic (scale the shorter side first, then cap the longer one, round half up) is the released one, because
    another order of the same operations rounds some sizes differently.
    """
    height, width = original_size
    scale = image_size / min(height, width)
    scaled_height, scaled_width = (image_size, scale * width) if height < width else (scale * height, image_size)
    if max(scaled_height, scaled_width) > image_size:
        shrink = image_size / max(scaled_height, scaled_width)
        scaled_height, scaled_width = scaled_height * shrink, scaled_width * shrink
    return max(1, int(scaled_height + 0.5)), max(1, int(scaled_width + 0.5))


def place_image(image: Image.Image, image_size: int) -> np.ndarray:
    """RGB image -> (S, S, 3) uint8: resized with Pillow's BILINEAR, padded with grey 128 at the right and bottom."""
    height, width = content_size((image.height, image.width), image_size)
    canvas = np.full((image_size, image_size, 3), PAD_VALUE, dtype=np.uint8)
    canvas[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return canvas


def place_mask(mask: np.ndarray, image_size: int) -> np.ndarray:
    """(H, W) bool at original size -> (S, S) bool: Pillow's NEAREST, padding False. A small mask may vanish."""
    height, width = content_size(mask.shape, image_size)
    canvas = np.zeros((image_size, image_size), dtype=bool)
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)) != 0
    canvas[:height, :width] = mask
    return canvas


def place_points(points: np.ndarray, original_size: Size, image_size: int) -> np.ndarray:
    """(..., 2) float (x, y) at original size -> the same points in the padded square."""
    height, width = content_size(original_size, image_size)
    return np.asarray(points, dtype=np.float64) * (width / original_size[1], height / original_size[0])


def place_polygons(polygons: Sequence[Sequence[float]], original_size: Size, image_size: int) -> np.ndarray:
    """Union of polygons, each a flat [x0, y0, x1, y1, ...] at original size -> (S, S) bool.

    The coordinates are scaled and rasterised at the padded size, not rasterised and then resized.
    """
    from pycocotools import mask as coco

    scaled = [place_points(np.reshape(polygon, (-1, 2)), original_size, image_size).ravel().tolist() for polygon in polygons]
    return coco.decode(coco.merge(coco.frPyObjects(scaled, image_size, image_size))).astype(bool)


# Inverse: the padded square -> the image as given


@dataclass(frozen=True)
class Placement:
    """Place of the image in a prediction: padded input size, size of its content (top left), size of the image as given."""

    padded_size: Size
    content_size: Size
    target_size: Size

    @classmethod
    def of_image(cls, original_size: Size, image_size: int) -> Placement:
        return cls((image_size, image_size), content_size(original_size, image_size), original_size)

    def to_padded(self, maps: Tensor) -> Tensor:
        """(N, h, w) float -> (N, S, S), bilinear."""
        return _resize_bilinear(maps, self.padded_size)

    def to_target(self, maps: Tensor) -> Tensor:
        """(N, S, S) float -> (N, H, W): cut the padding away, then bilinear."""
        height, width = self.content_size
        return _resize_bilinear(maps[:, :height, :width], self.target_size)

    def restore(self, maps: Tensor) -> Tensor:
        """(N, h, w) float at any resolution -> (N, H, W) at the size of the image as given.

        Two interpolations, as released: to the padded size, and from the content to the image.
        """
        return self.to_target(self.to_padded(maps))


def _resize_bilinear(maps: Tensor, size: Size) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


# Images in


def load_image(source: str | os.PathLike | BinaryIO, timeout: float = 20.0, *, allow_private_addresses: bool = False) -> Image.Image:
    """Opens a file, a URL or a binary file object, turns the image upright by its EXIF tag, and converts it to RGB.

    A path opens any image that this process may read, so a path of a stranger is not for this function.

    Args:
        source: path, http(s) URL, or file object opened in binary mode. A URL is read up to 64 MiB, and follows 5 redirects.
        timeout: seconds that a URL may take, everything together.
        allow_private_addresses: also reads URLs (and follows redirects) to this machine, its own network and other addresses that are not
            of the public internet.

    Raises:
        ValueError: the file is missing, no image, truncated, a pipe or device, or larger than `PIL.Image.MAX_IMAGE_PIXELS`; of a URL, see
            also `read_address`: another scheme, a private address, too many bytes, or too slow.
    """
    name = f"{getattr(source, 'name', source)!s:.200}"
    if isinstance(source, str) and is_address(source):
        source = io.BytesIO(read_address(source, timeout, allow_private_addresses))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image_file(source) as opened:
                # Up to twice its limit Pillow only warns, and filters of warnings belong to all threads.
                if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
                    raise Image.DecompressionBombError(
                        f"{opened.width} x {opened.height} pixels are more than {Image.MAX_IMAGE_PIXELS}: it could be a decompression bomb"
                    )
                opened.load()
                opened.info[_BITS] = _grey_bits(opened)
                upright = _turn_upright(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: {error}; make it smaller, or in Python set PIL.Image.MAX_IMAGE_PIXELS to a larger number first, if you trust it"
        ) from error
    except FileNotFoundError as error:
        raise ValueError(f"{name}: no such file") from error
    except _UNREADABLE as error:
        raise ValueError(f"{name}: not an image that can be read ({type(error).__name__}: {error})") from error
    return to_rgb(upright, name)


# What Pillow's decoders raise on broken files.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


_BITS = "bits per sample"  # beside what Pillow knows of an image, because a turned image has no tags


def _grey_bits(image: Image.Image) -> int:
    """Bits of the numbers that 16-bit pixels hold: what the tag BitsPerSample of a TIFF file says, 12 of many cameras; else 16."""
    tags = getattr(image, "tag_v2", {})
    return int(np.ravel(tags.get(258, image.info.get(_BITS, 16)))[0])


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error, ValueError, KeyError, TypeError):
        return image.copy()  # the pixels are fine, only the EXIF block is broken: there is no orientation to follow


def to_rgb(image: Any, name: str = "image", convert: bool = True) -> Image.Image:
    """Any image as an RGB PIL image of the same size; never rotated.

    Args:
        image: PIL image of any mode, or numpy array / torch tensor: (H, W), (H, W, C) or (C, H, W), C in {1, 3, 4}. Where
            both ends could be channels, a tensor is read as (C, H, W) and an array as (H, W, C).
        name: how error messages call it.
        convert: False refuses an image of other colours than red, green and blue, instead of converting it.

    Transparent pixels are composited on white. Values wider than 8 bit: 16-bit integers are divided by 257, or by 4095 / 255 if they come
    from a TIFF file whose tag BitsPerSample is 12, and so on; other numbers
    are taken as they are if they lie within [0, 255], times 255 if they are floats within [0, 1], divided by 257 if they are
    integers within [0, 65535], and stretched from their own minimum and maximum otherwise.

    Raises:
        ValueError: not an image, of an unknown shape, without pixels, not finite, or truncated.
    """
    if isinstance(image, (str, os.PathLike)):
        raise ValueError(f"{name}: expected an image, got the path {str(image)!r}; open it with load_image first")
    if isinstance(image, Tensor):
        image = _channels_last(_to_array(image, name), first_if_both=True, name=name)
    elif isinstance(image, np.ndarray):
        image = _channels_last(image, first_if_both=False, name=name)
    elif not isinstance(image, Image.Image):
        raise ValueError(f"{name}: expected a PIL image, numpy array or torch tensor, got {type(image).__name__}")

    if isinstance(image, np.ndarray):
        image = Image.fromarray(_to_uint8(image, name))
    if 0 in image.size:
        raise ValueError(f"{name}: has no pixels, its width and height are {image.size}")
    if not convert and image.mode != "RGB":
        raise ValueError(f"{name}: has the mode {image.mode}, expected RGB; convert it, or let do_convert_rgb=True do so")
    try:
        return _pil_to_rgb(image, name)
    except _UNREADABLE as error:
        raise ValueError(f"{name}: cannot be converted to RGB (mode {image.mode}; {type(error).__name__}: {error})") from error


def _to_array(tensor: Tensor, name: str) -> np.ndarray:
    if tensor.is_meta or tensor.is_complex() or tensor.is_quantized or tensor.is_sparse:
        raise ValueError(f"{name}: expected a tensor of real numbers, got {tensor.dtype}, {tensor.layout} on {tensor.device}")
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() and tensor.dtype != float64 else tensor).numpy()  # numpy has no bfloat16


def _channels_last(array: np.ndarray, *, first_if_both: bool, name: str) -> np.ndarray:
    channels = (1, 3, 4)
    if array.ndim == 3:
        is_first, is_last = array.shape[0] in channels, array.shape[-1] in channels
        if is_first and (first_if_both or not is_last):
            array = array.transpose(1, 2, 0)
        elif not is_last:
            raise ValueError(f"{name}: no axis of shape {array.shape} can be the channels; expected 1, 3 or 4 of them")
        return array[..., 0] if array.shape[-1] == 1 else array
    if array.ndim != 2:
        raise ValueError(f"{name}: expected (H, W), (H, W, C) or (C, H, W), got shape {array.shape}")
    return array


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8 or array.size == 0:
        return np.ascontiguousarray(array, dtype=np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{name}: has pixels that are not finite numbers")
    is_integer = np.issubdtype(array.dtype, np.integer)
    if array.dtype == np.uint16:
        values /= 257
    elif low >= 0 and high <= 1 and not is_integer:
        values *= 255
    elif low >= 0 and high <= 255:
        pass
    elif low >= 0 and high <= 65535 and is_integer:
        values /= 257
    else:
        values -= low
        values /= max(high - low, 1e-12)
        values *= 255
    values += 0.5  # in place: these are 8 bytes a pixel
    return values.astype(np.uint8)


def _pil_to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        array = np.asarray(image)
        if image.mode.startswith("I;16"):
            array = array.astype(np.uint16)  # also swaps the bytes of a big-endian file
            if (bits := _grey_bits(image)) < 16:
                return Image.fromarray((array * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)).convert("RGB")
        return Image.fromarray(_to_uint8(array, name)).convert("RGB")
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # colours already multiplied by alpha
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


# Masks in


def read_bitmap(mask: Any, size: Size, name: str) -> np.ndarray:
    """A mask in any of its forms as (H, W) bool.

    Args:
        mask: (H, W) array or tensor, one-channel PIL image (not zero = set; a palette image by its indices), or COCO RLE
            `{"size": [H, W], "counts": ...}`, compressed or not.
        size: the expected (H, W).
        name: how error messages call it.

    Raises:
        ValueError: another size, not a mask, or not finite.
    """
    if isinstance(mask, Mapping):
        try:
            height, width, runs = run_lengths(mask, size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        is_set = np.arange(runs.size) % 2 == 1  # the first run is one of zeros
        bitmap = np.repeat(is_set, runs).reshape(width, height).T  # runs go down the columns
    else:
        if isinstance(mask, Tensor):
            mask = _to_array(mask, name)
        elif not isinstance(mask, (Image.Image, np.ndarray)):
            raise ValueError(f"{name}: expected an (H, W) bitmap, a PIL image or an RLE, got {type(mask).__name__}")
        bitmap = np.asarray(mask)
    if bitmap.shape != tuple(size):
        raise ValueError(
            f"{name}: has shape {bitmap.shape}, but its image has (height, width) {tuple(size)}; give one mask of the image's size"
        )
    if np.issubdtype(bitmap.dtype, np.floating) and not np.isfinite(bitmap).all():
        raise ValueError(f"{name}: has pixels that are not finite numbers")
    return bitmap != 0


class PsalmImageProcessorKwargs(TypedDict, total=False):
    """Options of the constructor that a call may override; saved with the processor."""

    size: dict[str, int] | None
    do_convert_rgb: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    return_tensors: str | None


class PsalmImageProcessor(PilBackend):
    """Images -> `pixel_values` (I, 3, S, S) float32, S = `size["longest_edge"]`.

    Args:
        size: `{"longest_edge": S}`, default 1024.
        do_convert_rgb: images of any mode become RGB, see `to_rgb`; False refuses those that are not, for callers who convert them
            themselves.
        image_mean, image_std: per channel, in units of 8-bit pixel values; default those of the released model.

    Pillow resizes uint8 pixels (antialiased), so results are those of the released preprocessing bit for bit.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = PsalmImageProcessorKwargs
    default_to_square = False
    size = {"longest_edge": 1024}
    do_convert_rgb = True
    image_mean = (123.675, 116.28, 103.53)
    image_std = (58.395, 57.12, 57.375)

    @property
    def image_size(self) -> int:
        """Side of the padded square, in pixels."""
        return self.size["longest_edge"]

    def process_image(self, image: Any, do_convert_rgb: bool | None = True, **_: Any) -> Image.Image:
        return to_rgb(image, convert=do_convert_rgb is not False)

    def fetch_images(self, images: Any) -> Any:
        return images  # paths are refused by `to_rgb`: who passes one should know whether it was rotated

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        if set(dict(kwargs["size"])) != {"longest_edge"} or kwargs["size"]["longest_edge"] < 1:
            raise ValueError(f"size: expected {{'longest_edge': a positive number of pixels}}, got {dict(kwargs['size'])}")
        return kwargs

    def _preprocess(
        self,
        images: list[Image.Image],
        *,
        size: Any,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        return_tensors: str | None,
        **_: Any,
    ) -> BatchFeature:
        mean = np.asarray(image_mean, dtype=np.float32).reshape(-1, 1, 1)
        std = np.asarray(image_std, dtype=np.float32).reshape(-1, 1, 1)
        pixel_values = []
        for image in images:
            canvas = place_image(image, size["longest_edge"])  # (S, S, 3)
            # Planes are written in one pass: with channels last, and turned at the end, this took eight times as long.
            normalised = np.subtract(canvas.transpose(2, 0, 1), mean, order="C")  # (3, S, S) float32
            normalised /= std
            pixel_values.append(normalised)
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)
