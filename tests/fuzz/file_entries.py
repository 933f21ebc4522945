"""Entry points that read files: folder -> (random generator -> case)."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from psalm_hf.data.features import ROW_FEATURES, Category, SampleDataset, row_from_sample
from psalm_hf.data.load import dataset_builder
from psalm_hf.evaluation.formats.cityscapes_instances import CityscapesInstances
from psalm_hf.evaluation.formats.coco_panoptic import PanopticFiles
from psalm_hf.evaluation.formats.coco_results import CocoResults
from psalm_hf.evaluation.formats.json_lines import JsonLines
from psalm_hf.evaluation.formats.label_maps import LabelMaps
from psalm_hf.evaluation.formats.texts import MmBenchTable, PopeAnswers, ScienceQaAnswers, VqaResults
from psalm_hf.evaluation.records import Records
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Sample
from tests.data.benchmarks import test_coco, test_llava, test_lvis, test_pope, test_reasonseg, test_refcoco
from tests.data.own.test_mutations import COCO
from tests.fuzz.fuzzing import Case, broken, broken_bytes, broken_text, value

SIZE = (4, 6)


def dumped(content: Any) -> str:
    return json.dumps(content)


# Builders: rows are made, as `load` makes them, without the cache


def rows_of(name: str, root: Path, split: str, **options: Any) -> list[dict]:
    builder = dataset_builder(name)(cache_dir=str(root / "cache"), config_name=name, data_dir=str(root), split=split, **options)
    generator = builder._split_generators(None)[0]
    rows = [row for _, row in builder._generate_examples(**generator.gen_kwargs)]
    table = pa.Table.from_pylist(rows, schema=ROW_FEATURES.arrow_schema)
    return list(SampleDataset(datasets.Dataset(table), builder.categories, builder.task))


def check_samples(samples: list[Sample]) -> None:
    for sample in samples:
        assert all(tuple(segment.mask_rle["size"]) == tuple(sample.image_size) for segment in sample.segments)


LINES = [
    {"image": "images/1.png", "text": "the cup", "mask": "masks/1.png"},
    {"image": "images/2.png", "text": ["a cup", "it"], "segmentation": [[1, 1, 9, 1, 9, 4]]},
    {"image": "images/1.png", "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cup."}]},
]
LABELME = {
    "imagePath": "../images/1.png",
    "imageHeight": 12,
    "imageWidth": 16,
    "shapes": [
        {"label": "cup", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 4]], "group_id": None},
        {"label": "cup", "shape_type": "rectangle", "points": [[1, 6], [9, 9]]},
    ],
}
YOLO = {"names": {0: "cup", 1: "table"}, "train": "images"}


def own_builders(folder: Path) -> Callable[[Random], Case]:
    root = folder / "own"
    for name in ("images", "masks", "labels", "annotations"):
        (root / name).mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (16, 12)).save(root / f"images/{number}.png")
        Image.fromarray(np.eye(12, 16, dtype=np.uint8) * 255).save(root / f"masks/{number}.png")
        (root / f"labels/{number}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.5\n")
    formats = {
        "own_coco": ("annotations/train.json", lambda rng: dumped(broken(COCO, rng)), {}),
        "own_jsonl": ("train.jsonl", lambda rng: "\n".join(map(dumped, broken(LINES, rng) or [])), {}),
        "own_labelme": ("annotations/1.json", lambda rng: dumped(broken(LABELME, rng)), {}),
        "own_yolo": ("data.yaml", lambda rng: yaml.safe_dump(broken(YOLO, rng), allow_unicode=True), {}),
    }

    def draw(rng: Random) -> Case:
        name = rng.choice(tuple(formats))
        file, make, options = formats[name]
        try:
            content = broken_text(make(rng), rng)
        except (TypeError, UnicodeError, yaml.YAMLError):  # what the format cannot hold
            content = b"{}"
        (root / file).write_bytes(content)
        labels = broken_text("0 0.1 0.1 0.9 0.1 0.9 0.5\n", rng) if name == "own_yolo" and rng.random() < 0.5 else None
        (root / "labels/1.txt").write_bytes(labels or b"0 0.1 0.1 0.9 0.1 0.9 0.5\n")
        return Case((name, content, labels), lambda: rows_of(name, root, "train", **options), (name,), check_samples)

    return draw


def benchmark_builders(folder: Path) -> Callable[[Random], Case]:
    images = [{"id": id, "file_name": f"{id:012d}.jpg", "height": 4, "width": 6} for id in (30, 20)]
    panoptic = [{"image_id": 30, "file_name": f"{30:012d}.png", "segments_info": test_coco.SEGMENTS}]
    lvis_images = [test_lvis.image(30, "val2017", neg=[7, 2], not_exhaustive=[1203])]
    lvis_objects = [{"id": 31, "image_id": 30, "category_id": 1203, "segmentation": [test_lvis.POLYGON], "area": 5.5}]
    things = [{key: entry[key] for key in ("id", "name")} for entry in test_coco.CATEGORIES[:2]]
    contents = {
        ("coco_panoptic", "val", "annotations/panoptic_val2017.json"): {
            "images": images,
            "annotations": panoptic,
            "categories": test_coco.CATEGORIES,
        },
        ("coco_instance", "val", "annotations/instances_val2017.json"): {
            "images": images,
            "annotations": test_coco.INSTANCES,
            "categories": things,
        },
        ("lvis", "val", "lvis_v1_val.json"): {"images": lvis_images, "annotations": lvis_objects, "categories": test_lvis.CATEGORIES},
        ("refcoco", "val", "refcoco/refs(unc).json"): test_refcoco.refs(),
        ("grefcoco", "val", "grefcoco/grefs(unc).json"): test_refcoco.grefs(),
        ("reasonseg", "val", "val/1.json"): test_reasonseg.annotation("What keeps the rain off?", "the umbrella"),
        ("llava_mix665k", "train", test_llava.MIX): test_llava.RECORDS,
        ("pope", "random", "coco/coco_pope_random.json"): test_pope.LINES,
    }
    root = folder / "benchmarks"
    for name, _, file in contents:
        (root / name / file).parent.mkdir(parents=True, exist_ok=True)
    for name in ("coco_panoptic", "coco_instance", "lvis"):
        (root / name / "val2017").mkdir(exist_ok=True)
        for id in (30, 20):
            Image.new("RGB", SIZE[::-1]).save(root / name / f"val2017/{id:012d}.jpg")
    (root / "coco_panoptic/panoptic_val2017").mkdir()
    Image.fromarray(test_coco.colours(test_coco.MAP)).save(root / f"coco_panoptic/panoptic_val2017/{30:012d}.png")
    for name in ("refcoco", "grefcoco"):
        test_refcoco.draw_pictures(root / name, "images/mscoco/train2014")
        test_refcoco.write_instances(root / name, name, test_refcoco.ANNOTATIONS)
    Image.new("RGB", test_reasonseg.SIZE[::-1]).save(root / "reasonseg/val/1.jpg")
    for name in ("coco/train2017/1.jpg", "vg/VG_100K/7.jpg", "ocr_vqa/images/8.jpg"):
        (root / "llava_mix665k" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / "llava_mix665k" / name)
    (root / "pope/val2014").mkdir()
    for line in test_pope.LINES:
        Image.new("RGB", (6, 4)).save(root / "pope/val2014" / line["image"])

    def draw(rng: Random) -> Case:
        name, split, file = rng.choice(tuple(contents))
        content = broken(contents[name, split, file], rng)
        text = "\n".join(map(dumped, content)) if name == "pope" and isinstance(content, list) else dumped(content)
        (root / name / file).write_bytes(broken_text(text, rng))
        return Case((name, text), lambda: rows_of(name, root / name, split), (name, str(root / name)), check_samples)

    return draw


# Predictions

CATEGORIES = (Category(24, "person", True), Category(26, "car", True), Category(7, "road", False))


def drawn_rows(ids: tuple[str, ...], **fields: Any) -> SampleDataset:
    names = {category.id: category.name for category in CATEGORIES}
    samples = [Sample("a.jpg", "7", SIZE, categories=names, record_id=id, **fields) for id in ids]
    if not fields:
        samples = [Sample("a.jpg", id, SIZE, categories=names) for id in ids]
    return SampleDataset(
        datasets.Dataset.from_list([row_from_sample(each) for each in samples], features=ROW_FEATURES), CATEGORIES, "panoptic"
    )


def mask(start: int, end: int) -> dict:
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[:, start:end] = True
    return rle_from_bitmap(bitmap)


def readers(folder: Path) -> Callable[[Random], Case]:
    by_image = drawn_rows(("7", "8"))
    segments = [{"category_id": 7, "score": 0.5, "mask": mask(0, 2)}, {"category_id": 24, "score": 0.9, "mask": mask(3, 5)}]
    questions = tuple({"role": "user", "content": f"Is there a {noun}?\nShortly."} for noun in ("cup", "can"))
    asked = [
        Sample(None, "7", None, conversation=(turn,), record_id=str(number), choices=("yes", "no")) for number, turn in enumerate(questions)
    ]
    asked = SampleDataset(datasets.Dataset.from_list([row_from_sample(each) for each in asked], features=ROW_FEATURES), ())
    texts = [{"text": "yes"}, {"text": "no"}]
    referring = [{"mask": mask(0, 2), "score": 0.5, "no_target": False}] * 2
    regions = [{"masks": [mask(0, 2)], "scores": [0.5]}] * 2
    given = {
        "panoptic": (PanopticFiles(CATEGORIES), by_image, [{"segments": segments}] * 2),
        "instances": (CocoResults(CATEGORIES), by_image, [{"instances": segments}] * 2),
        "cityscapes": (CityscapesInstances(CATEGORIES), by_image, [{"instances": segments}] * 2),
        "maps": (LabelMaps.of_positions(CATEGORIES), by_image, [{"segments": segments}] * 2),
        "referring": (JsonLines(("mask", "score", "no_target")), by_image, referring),
        "region": (JsonLines(("masks", "scores")), by_image, regions),
        "text": (JsonLines(("text",)), asked, texts),
        "vqa": (VqaResults(), asked, texts),
        "scienceqa": (ScienceQaAnswers(), asked, texts),
        "mmbench": (MmBenchTable(), asked, texts),
        "pope": (PopeAnswers(), asked, texts),
    }
    originals: dict[Path, bytes] = {}
    for name, (form, rows, predictions) in given.items():
        (folder / name).mkdir()
        form.write(folder / name, zip(rows, predictions, strict=True))
        originals |= {file: file.read_bytes() for file in (folder / name).rglob("*.*") if file.is_file()}
    records = Records(folder / "records")
    records.append(enumerate(texts))
    originals[records.path] = records.path.read_bytes()

    def draw(rng: Random) -> Case:
        name = rng.choice((*given, "records"))
        files = sorted(file for file in originals if file.is_relative_to(folder / name))
        for file in files:
            file.write_bytes(originals[file])
        file = rng.choice(files)
        file.write_bytes(content := broken_file(file, originals[file], rng))
        if name == "records":
            return Case((file, content), lambda: read_records(folder / "records"), (str(folder / name),))
        form, rows, _ = given[name]
        names = (str(folder / name), "image 7", "image 8")
        return Case((file, content), lambda: form.read(folder / name, rows), names, lambda found: check_predictions(found, rows))

    return draw


def read_records(folder: Path) -> dict:
    records = Records(folder)
    records.mend()
    return dict(records.predictions())


def broken_file(file: Path, content: bytes, rng: Random) -> bytes:
    if file.suffix == ".json" and rng.random() < 0.8:
        return broken_text(dumped(broken(json.loads(content), rng)), rng)
    if file.suffix == ".jsonl" and rng.random() < 0.8:
        lines = broken([json.loads(line) for line in content.splitlines()], rng)
        return broken_text("\n".join(map(dumped, lines)) + "\n" if isinstance(lines, list) else dumped(lines), rng)
    return broken_bytes(content, rng)


def check_predictions(found: dict[int, Any], rows: SampleDataset) -> None:
    """JSON can hold them, numbers are finite, masks have the size of their image."""
    assert sorted(found) == list(range(len(rows)))
    json.dumps(found, allow_nan=False).encode()
    for prediction in found.values():
        entries = [*prediction.get("segments", ()), *prediction.get("instances", ())]
        masks = (
            [entry["mask"] for entry in entries]
            + list(prediction.get("masks", ()))
            + [prediction[key] for key in ("mask",) if key in prediction]
        )
        assert all(entry["size"] == list(SIZE) for entry in masks)
        assert all(type(entry["category_id"]) is int for entry in entries)
        scores = [entry.get("score", 0.0) for entry in entries] + list(prediction.get("scores", ()))
        assert all(type(score) is float for score in scores)


# Configs

CONFIG = {
    "checkpoint": "somewhere/model",
    "output_dir": "out",
    "weights": {"panoptic": 1, "referring": 0.5},
    "batch_sizes": {"panoptic": 2, "referring": 4},
    "sources": {"panoptic": {"num_images": 3}, "referring": {"dataset": "shapes"}},
    "model": {"num_queries": 10},
    "eval_images": 2,
    "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj"]},
    "max_steps": 5,
    "learning_rate": "1e-3",
    "learning_rates": {"model.vision_tower": 0.1},
    "seed": 3,
    "use_cpu": True,
    "report_to": "none",
    "lr_scheduler_type": "cosine",
    "save_strategy": False,
    "gradient_checkpointing": True,
    "checkpointed_parts": ["model.language_model"],
    "dataloader_num_workers": 0,
}
TINY_MODEL = {
    "model_type": "psalm",
    "image_size": 64,
    "num_queries": 4,
    "hidden_dim": 32,
    "num_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "projector_width": 16,
    "class_weight": 2.0,
    "vision_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]},
    "text_config": {"model_type": "phi", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def configs(folder: Path) -> Callable[[Random], Case]:
    from psalm_hf.cli.verify import read_options
    from psalm_hf.model.configuration_psalm import PsalmConfig
    from psalm_hf.training.stages import read_run
    from psalm_hf.training.start import read_model_file

    os.chdir(folder)
    path = folder / "config.yaml"
    start = {"vocab_size": 300, "model": TINY_MODEL, "processor": {"prompt_radii": [4, 2]}}

    def draw(rng: Random) -> Case:
        kind = rng.choice(("run", "run", "run", "start", "json", "option"))
        if kind == "json":
            (folder / "config.json").write_bytes(content := broken_text(dumped(broken(TINY_MODEL, rng)), rng))
            return Case((kind, content), lambda: PsalmConfig.from_pretrained(folder), (str(folder),), check_config)
        text = yaml_text(broken(start if kind == "start" else CONFIG, rng), rng)
        if kind == "option":
            given = f"ignore={broken_text(text, rng).decode('utf-8', 'replace')}"
            return Case((kind, given), lambda: read_options([given]), ("--option",))
        path.write_bytes(content := broken_text(text, rng))
        read = read_model_file if kind == "start" else lambda file: read_run(file, [])
        return Case((kind, content), lambda: read(path), (str(path),))

    return draw


def yaml_text(content: Any, rng: Random) -> str:
    """YAML of a broken value; sometimes with aliases that grow, keys twice, tags or tabs."""
    try:
        text = yaml.safe_dump(content, default_flow_style=rng.choice((None, True, False)))
    except yaml.YAMLError:
        text = dumped(content)
    what = rng.random()
    if what < 0.05:
        levels = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(rng.randrange(1, 12)))
        return f"a: &a [x, x]\n{levels}{text}"
    if what < 0.1:
        return text + rng.choice(
            ("\nmax_steps: 5\nmax_steps: 5\n", "\na: !!python/name:os.system\n", "\nseed:\t- 1\n", "\n---\na: 1\n", "\na: &a [*a]\n")
        )
    return text


def check_config(config: Any) -> None:
    assert config.image_size > 0 and config.hidden_dim > 0 and len({config.image_token_id, config.region_token_id}) == 2


# Weights


def weights(folder: Path) -> Callable[[Random], Case]:
    from psalm_hf.model.convert_psalm_checkpoint import check_weights, load_original_checkpoint, read_detectron2_pickle, read_weights
    from psalm_hf.tiny import build_tiny
    from psalm_hf.video.session import PsalmVideoSession

    model, processor = build_tiny()
    session, frame = PsalmVideoSession(model.eval(), processor, threshold=1.0), Image.new("RGB", (16, 12))
    session.add_objects(frame, {1: np.eye(12, 16, dtype=bool), "b": {"box": (1, 2, 9, 10)}, 3: {"expression": "a cup"}})
    session.add_objects(frame, {4: {"categories": ["a", "b"]}}, instances=True)
    session.save(folder / "session")
    tensors = {"model.embed_tokens.weight": torch.ones(4, 3), "b": torch.arange(6, dtype=torch.float16)}
    save_file(tensors, folder / "model.safetensors")
    torch.save(tensors, folder / "zip.bin")
    torch.save(tensors, folder / "old.bin", _use_new_zipfile_serialization=False)
    arrays = {"model": {name: tensor.numpy() for name, tensor in tensors.items()}, "iteration": np.float64(3)}
    contents = {name: (folder / name).read_bytes() for name in ("session", "model.safetensors", "zip.bin", "old.bin")}
    contents |= {f"{protocol}.pkl": pickle.dumps(arrays, protocol) for protocol in (2, 4, 5)}
    index = {"metadata": {}, "weight_map": {"b": "model-1.safetensors", "model.embed_tokens.weight": "model-1.safetensors"}}
    outside = folder / "outside.safetensors"
    outside.write_bytes(contents["model.safetensors"])

    def draw(rng: Random) -> Case:
        kind = rng.choice((*contents, "index", "values", "config"))
        place = folder / "checkpoint"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if kind == "session" or kind.endswith(".pkl"):
            (place / kind).write_bytes(content := broken_bytes(contents[kind], rng))
            if kind == "session":
                return Case((kind, content), lambda: session.load(place / kind), (str(place / kind),), lambda _: check_session(session))
            return Case((kind, content), lambda: read_detectron2_pickle(place / kind), (str(place / kind),), check_tensors)
        if kind in ("index", "config"):
            content = broken_text(
                dumped(broken(index if kind == "index" else {"model_type": "llava_phi", "num_attention_heads": 2}, rng)), rng
            )
            if kind == "index" and rng.random() < 0.3:
                name = rng.choice(
                    ("../outside.safetensors", str(outside), "model-2.safetensors", "./model-1.safetensors", "model-1.safetensors/")
                )
                content = dumped({"weight_map": {"b": name}}).encode()
            (place / "model-2.safetensors").symlink_to(outside)
            (place / "model-1.safetensors").write_bytes(contents["model.safetensors"])
            (place / ("model.safetensors.index.json" if kind == "index" else "config.json")).write_bytes(content)
            read = read_weights if kind == "index" else load_original_checkpoint
            return Case((kind, content), lambda: read(place), (str(place),), lambda found: check_shards(found, place, kind))
        if kind == "values":
            content = {rng.choice(("a", 3, None, "b")): rng.choice((tensors["b"], value(rng), [tensors["b"]], torch.ones(1).expand(10**9)))}
            torch.save(content, place / "pytorch_model.bin")
        else:
            content = broken_bytes(contents[kind], rng)
            (place / (kind if kind.endswith("safetensors") else "pytorch_model.bin")).write_bytes(content)

        def read() -> dict:
            check_weights(place)
            return read_weights(place)

        return Case((kind, content), read, (str(place),), check_tensors)

    return draw


def check_tensors(found: dict) -> None:
    assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items())
    assert sum(tensor.numel() for tensor in found.values()) < 10**5
    for tensor in found.values():
        tensor.float().sum()  # every value is there


def check_shards(found: Any, place: Path, kind: str) -> None:
    assert kind == "index", "an original folder without weights was read"
    names = json.loads((place / "model.safetensors.index.json").read_text())["weight_map"].values()
    assert set(names) <= {"model-1.safetensors"}, "a file outside of the folder was opened"
    check_tensors(found)


def check_session(session: Any) -> None:
    assert all(isinstance(name, int | str) for name in session.object_ids) and session.num_tracked >= 0
