"""Files of a result that a user takes home: overlay, COCO, Labelme, masks. They hold what `PsalmResult` holds, bit for bit."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..result import PsalmResult
from ..writing import write_file, write_json
from .image_session import ImageSession

KEPT_DOWNLOADS = 100  # folders; the oldest are removed


def write_downloads(session: ImageSession, folder: Path) -> list[str]:
    """Writes the files of what the user has chosen into a new folder below `folder`.

    Returns:
        Paths of NAME_overlay.png, NAME_coco.json, NAME_labelme.json, NAME_masks.zip.

    Raises:
        ValueError: nothing was found.
    """
    result = session.chosen
    if result is None or not len(result):
        raise ValueError("there is nothing to download: mark something in the image, or say it, first")
    stem = safe_stem(Path(session.name).stem) or "image"
    target = folder / "downloads" / secrets.token_hex(8)
    target.mkdir(parents=True)
    overlay, coco, labelme, masks = (target / f"{stem}_{name}" for name in ("overlay.png", "coco.json", "labelme.json", "masks.zip"))
    result.plot().save(overlay)
    write_json(coco, coco_dataset(result, session.name or "image.png"), indent=1)
    write_json(labelme, result.to_labelme(), indent=1)
    write_file(masks, lambda file: file.write(masks_archive(result)))
    for old in sorted(target.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_DOWNLOADS]:
        shutil.rmtree(old, ignore_errors=True)
    return [str(path) for path in (overlay, coco, labelme, masks)]


def coco_dataset(result: PsalmResult, file_name: str) -> dict[str, Any]:
    """Content of a COCO file of instances about one image: the categories are the names of the prompt, counted from 1."""
    entries = [{"id": number, "iscrowd": 0, **entry} for number, entry in enumerate(result.to_coco(image_id=1), 1)]
    return {
        "images": [{"id": 1, "file_name": file_name, "height": result.image.height, "width": result.image.width}],
        "annotations": entries,
        "categories": [{"id": number, "name": name} for number, name in enumerate(result.prompt.names, 1)],
    }


def masks_archive(result: PsalmResult) -> bytes:
    """ZIP file with one PNG per instance, 0 and 255, called NUMBER_LABEL.png."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, one in enumerate(result, 1):
            png = io.BytesIO()
            Image.fromarray(one.mask.astype(np.uint8) * 255).save(png, format="PNG")
            archive.writestr(f"{number:03d}_{safe_stem(one.phrase)}.png", png.getvalue())
    return file.getvalue()


def safe_stem(text: str) -> str:
    """The text as part of the name of a file: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]", "_", text)[:60]
