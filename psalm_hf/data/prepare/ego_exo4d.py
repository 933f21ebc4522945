"""Unpacks the relations of Ego-Exo4D: masks of every take, and its frames where videos are given.

    psalm prepare ego_exo4d annotations/relations_val.json processed --split val --videos takes

writes processed/<take>/annotation.json (masks as COCO RLE at full resolution, the frames that were looked at, the frames that exist) and
adds the takes to processed/split.json. Views without frames are left out. With --videos, one frame per second of
takes/<name>/frame_aligned_videos/<camera>.mp4 is written to
processed/<take>/<camera>/<frame>.jpg, the first-person camera at half, the others at a quarter of the size; that needs PyAV. Without
--videos the frames have to be there. Finished takes are kept.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from PIL import Image
from tqdm import tqdm

from ...masks import compress_rle
from ...writing import finish, sync_tree, unfinished_path, write_json
from .lzstring import decompress_from_uri_component

FRAMES_PER_SECOND = 30  # nothing is annotated more often than once per second
MIN_HEIGHT = 1408  # smaller videos are left out, as in the public baselines


def unpacked_masks(object_masks: dict) -> tuple[dict, dict, list[str]]:
    """Masks as RLE, and the frames that were looked at, both by object and camera; and masks that could not be decoded (None)."""
    masks, annotated, broken = {}, {}, []
    for name, views in object_masks.items():
        masks[name], annotated[name] = {}, {}
        for camera, view in views.items():
            masks[name][camera] = {}
            annotated[name][camera] = view["annotated_frames"]
            for frame, entry in view["annotation"].items():
                try:
                    if not isinstance(entry["encodedMask"], str):
                        raise ValueError(f"encodedMask is {entry['encodedMask']!r:.40}, expected text")
                    counts = decompress_from_uri_component(entry["encodedMask"])
                    rle = compress_rle({"size": [entry["height"], entry["width"]], "counts": counts})
                except ValueError as error:
                    broken.append(f"{name}, {camera}, frame {frame}: {error}")
                    rle = None
                masks[name][camera][frame] = rle
    return masks, annotated, broken


def video_frames(video: Path) -> Iterator[tuple[int, object]]:
    """Number and PIL image of one frame per second.

    Raises:
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ImportError("reading videos needs PyAV; install it with `pip install av`, or extract the frames yourself") from error

    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % FRAMES_PER_SECOND == 0:
                yield number, frame.to_image()


def write_frames(video: Path, folder: Path, scale: int) -> list[int]:
    """Writes the frames of a camera, `scale` times smaller; returns their numbers, none if the video is too small."""
    numbers = []
    folder.mkdir(parents=True)
    for number, image in video_frames(video):
        if image.height < MIN_HEIGHT:
            break
        image.resize((image.width // scale, image.height // scale), Image.Resampling.BILINEAR).save(folder / f"{number}.jpg", quality=95)
        numbers.append(number)
    return numbers


def frames_there(folders: Iterable[Path]) -> list[int]:
    """Numbers of the frames that any of the cameras has."""
    return sorted({int(file.stem) for folder in folders for file in folder.glob("*.jpg")})


def of_cameras(cameras: Iterable[str], by_object: dict[str, dict]) -> dict[str, dict]:
    """Object -> camera -> anything, without other cameras. All objects stay, because their position is their id."""
    return {name: {camera: view for camera, view in views.items() if camera in cameras} for name, views in by_object.items()}


def prepare_take(take: str, relations: dict, output: Path, videos: Path | None) -> list[str]:
    """Writes one take, its annotation last; returns the masks that could not be decoded.

    Raises:
        ValueError: a field is missing, there are several first-person cameras, or it has no frames.
        FileNotFoundError: the video of the first-person camera is missing.
    """
    from ..benchmarks.ego_exo4d import ego_camera

    try:
        masks, annotated, broken = unpacked_masks(relations["object_masks"])
        take_name = relations["take_name"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error!r} in the relations; download them again") from error
    cameras = sorted({camera for views in masks.values() for camera in views})
    ego = ego_camera(cameras)
    folder = output / take
    folder.mkdir(parents=True, exist_ok=True)
    if videos is not None:
        for camera in cameras:
            video = videos / take_name / "frame_aligned_videos" / f"{camera}.mp4"
            if not video.exists():
                if camera == ego:
                    raise FileNotFoundError(2, "no video", str(video))
                print(f"take {take}: there is no {video}", file=sys.stderr)
                continue
            unfinished = unfinished_path(folder / camera)
            try:
                numbers = write_frames(video, unfinished, scale=2 if camera == ego else 4)
                (folder / "annotation.json").unlink(missing_ok=True)  # by which the take counts as finished
                shutil.rmtree(folder / camera, ignore_errors=True)
                if numbers:
                    sync_tree(unfinished)
                    finish(unfinished, folder / camera)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    seen = [camera for camera in cameras if frames_there([folder / camera])]
    if not seen or (ego is not None and ego not in seen):
        raise ValueError(
            f"there are no frames in {folder / (ego or '')}"
            + ("; give the folder of the videos with --videos" if videos is None else f": its videos are below {MIN_HEIGHT} pixels high")
        )
    if len(seen) < len(cameras):
        without = ", ".join(camera for camera in cameras if camera not in seen)
        print(f"take {take}: there are no frames of {without}; these views are left out", file=sys.stderr)
    content = {
        "masks": of_cameras(seen, masks),
        "subsample_idx": frames_there(folder / camera for camera in seen),
        "annotated_frames": of_cameras(seen, annotated),
    }
    write_json(folder / "annotation.json", content)
    return broken


def prepare(
    relations: Path, output: Path, *, split: Literal["train", "val", "test"], videos: Path | None = None, overwrite: bool = False
) -> None:
    """Unpacks all takes of the relations file.

    Args:
        relations: relations_{train,val,test}.json. output: folder of the takes.
        split: under which split.json lists the takes.
        videos: folder with <take name>/frame_aligned_videos/<camera>.mp4.
        overwrite: make takes again that exist.

    Raises:
        ValueError: no relations, or no take that can be prepared.
        ImportError: videos, and PyAV is not installed.
    """
    try:
        takes = json.loads(relations.read_text(encoding="utf-8"))["annotations"]
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} does not exist; see docs/datasets/ego_exo4d.md for the files") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{relations}: no relations of Ego-Exo4D ({error!r}); download them again") from error
    kept, left_out, broken = 0, [], []
    for take, of_take in tqdm(takes.items(), desc=relations.name, unit="take"):
        if (output / take / "annotation.json").exists() and not overwrite:
            kept += 1
            continue
        try:
            broken += [f"take {take}, {problem}" for problem in prepare_take(take, of_take, output, videos)]
        except (ValueError, FileNotFoundError) as error:
            left_out.append(f"take {take}: {error}")
    done = [take for take in takes if (output / take / "annotation.json").exists()]
    if left_out and not done:
        raise ValueError(f"no take could be prepared, the first: {left_out[0]}")
    split_file = output / "split.json"
    splits = {"train": [], "val": [], "test": []}
    if split_file.exists():
        splits |= json.loads(split_file.read_text(encoding="utf-8"))
    splits[split] += [take for take in done if take not in splits[split]]
    write_json(split_file, splits)
    print(f"{len(done)} takes, {kept} of them kept", file=sys.stderr)
    for what, problems in (("takes are left out", left_out), ("masks cannot be decoded and count as unknown", broken)):
        if problems:
            print(f"{len(problems)} {what}, the first: {problems[0]}", file=sys.stderr)
