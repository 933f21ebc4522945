"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO on a drawn folder, and on the real sample, compared with the pickles and pycocotools."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image
from pycocotools.coco import COCO

from psalm_hf.data import DATASETS, load
from psalm_hf.data.benchmarks.refcoco import IMAGE_FOLDERS, RefCoco, RefCocog, RefCocoPlus
from psalm_hf.masks import bitmap_from_rle
from tests.conftest import SAMPLES

SIZE = (4, 6)
LEFT = np.zeros(SIZE, dtype=bool)
LEFT[:2, :3] = True
RUNS = {"size": list(SIZE), "counts": [3, 5, 16]}
COLUMN = np.array([[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=bool)  # down, then right
ANNOTATIONS = [
    {"id": 11, "image_id": 30, "category_id": 90, "iscrowd": 0, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
    {"id": 12, "image_id": 30, "category_id": 1, "iscrowd": 0, "segmentation": RUNS},
    {"id": 13, "image_id": 20, "category_id": 1, "iscrowd": 1, "segmentation": RUNS},
    {"id": 14, "image_id": 20, "category_id": 44, "iscrowd": 0, "segmentation": [[3, 2, 6, 2, 6, 4, 3, 4]]},
]
IMAGES = [{"id": id, "file_name": f"COCO_train2014_{id:012d}.jpg", "height": 4, "width": 6} for id in (20, 30)]


def ref(id, split, image_id, ann_id, *sentences):
    """Sentences get the ids 10 id, 10 id + 1, ..."""
    sentences = [{"sent_id": 10 * id + number, "sent": sent, "raw": sent.upper()} for number, sent in enumerate(sentences)]
    # The suffix of `file_name` is no part of the name of a picture.
    return {"ref_id": id, "split": split, "image_id": image_id, "ann_id": ann_id, "sentences": sentences, "file_name": f"x_{id}.jpg"}


def refs():
    return [
        ref(7, "val", 30, 12, "right cup", "the cup's handle"),
        ref(5, "train", 30, 11, "left cup", "  ", "cup"),
        ref(6, "train", 20, 13, "people"),
        ref(8, "val", 20, 14, "\n", "a fork"),
        ref(9, "val", 20, 13, "people"),
        ref(4, "train", 20, 14, ""),
        ref(3, "testA", 20, 14, "fork"),
    ]


def grefs():
    return [
        ref(1, "val", 30, [12, 11], "both cups"),
        ref(2, "val", 30, [-1], "a dog"),
        ref(3, "val", 20, [14], "a fork"),
        ref(4, "val", 20, [13, 14], "the fork and the people"),
        ref(5, "train", 20, [13], "the people"),
        ref(6, "train", 20, [-1], "a cat", "a cow"),
    ]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "refer_seg"
    draw_pictures(root, "images/mscoco/train2014")
    for name, content in (("refcoco", refs()), ("grefcoco", grefs())):
        (root / name).mkdir()
        write_instances(root, name, ANNOTATIONS)
        write_refs(root, name, content)
    return root


def draw_pictures(root, folder, name="COCO_train2014_{:012d}.jpg"):
    (root / folder).mkdir(parents=True)
    for image in IMAGES:
        Image.new("RGB", SIZE[::-1], (image["id"], 0, 0)).save(root / folder / name.format(image["id"]))


def write_instances(root, name, annotations):
    content = {"images": IMAGES, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (root / name / "instances.json").write_text(json.dumps(content), encoding="utf-8")


def write_refs(root, name, content):
    if name == "grefcoco":
        (root / "grefcoco/grefs(unc).json").write_text(json.dumps(content), encoding="utf-8")
    else:
        (root / name / "refs(unc).p").write_bytes(pickle.dumps(content, 2))


def released_items(refs, split, instances):
    """Items that the released script writes for a split."""
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    items = []
    for ref in refs:
        if ref["split"] == split:
            ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            image = images[ref["image_id"]]
            anns = [] if -1 in ids else [annotations[id] for id in ids]
            item = {"image": image["file_name"], "image_info": image, "instruction": ref["sentences"], "anns": anns}
            items.append({**item, "new_img_id": len(items)})
    return items


def bitmaps(sample):
    return [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]


def asked(dataset):
    return [(sample.image_id, sample.record_id, sample.expressions) for sample in dataset]


def test_a_row_per_sentence_means_the_annotation_of_its_ref(root, tmp_path):
    dataset = load("refcoco", "val", root, cache_dir=tmp_path)
    assert asked(dataset) == [
        ("30", "70", ("right cup",)),
        ("30", "71", ("the cup's handle",)),
        ("20", "81", ("a fork",)),
        ("20", "90", ("people",)),
    ]
    for sample in (dataset[0], dataset[1]):
        assert np.array_equal(bitmaps(sample), [COLUMN])
        assert [(segment.category_id, segment.annotation_id, segment.is_crowd) for segment in sample.segments] == [(1, 12, False)]
        assert sample.image == str(root / "images/mscoco/train2014/COCO_train2014_000000000030.jpg")
    assert dataset[3].segments[0].is_crowd
    assert dataset.categories == ()


def test_a_merged_row_has_all_sentences_of_a_ref_that_are_not_blank(root, tmp_path):
    dataset = load("refcoco", "train", root, cache_dir=tmp_path)
    assert asked(dataset) == [("30", "50,52", ("left cup", "cup"))]  # crowds alone cannot be learned
    assert np.array_equal(bitmaps(dataset[0]), [LEFT])
    assert [sample.record_id for sample in load("refcoco", "train", root, cache_dir=tmp_path, keep_empty=True)] == ["50,52", "60"]
    assert [sample.record_id for sample in load("refcoco", "val", root, cache_dir=tmp_path, keep_empty=False, protocol="merged")] == [
        "70,71",
        "81",
    ]
    assert [sample.record_id for sample in load("refcoco", "train", root, cache_dir=tmp_path, protocol="per_expression")] == ["50", "52"]


def test_generalised_expressions_mean_any_number_of_objects(root, tmp_path):
    dataset = load("grefcoco", "val", root, cache_dir=tmp_path)
    assert [[segment.annotation_id for segment in sample.segments] for sample in dataset] == [[12, 11], [], [14], [13, 14]]
    assert dataset.rows["tags"][:] == [["several_targets"], ["no_target"], ["one_target"], ["several_targets"]]
    assert np.array_equal(bitmaps(dataset[0]), [COLUMN, LEFT])
    assert [segment.is_crowd for segment in dataset[3].segments] == [True, False]
    assert dataset[1].expressions == ("a dog",)


def test_expressions_without_target_stay_in_training_and_crowds_alone_do_not(root, tmp_path):
    dataset = load("grefcoco", "train", root, cache_dir=tmp_path)
    assert [(sample.expressions, sample.segments) for sample in dataset] == [(("a cat", "a cow"), ())]


@pytest.mark.parametrize("folder", IMAGE_FOLDERS)
def test_pictures_lie_in_one_of_the_usual_folders(folder, root, tmp_path):
    (root / "images/mscoco/train2014").rename(root / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match="refcoco val: the images of COCO train2014 are not in .*, looked for images/mscoco/images/"
    ):
        load("refcoco", "val", root, cache_dir=tmp_path)
    name = "{:012d}.jpg" if folder == "train2017" else "COCO_train2014_{:012d}.jpg"
    draw_pictures(root, folder, name)
    assert load("refcoco", "val", root, cache_dir=tmp_path)[0].image == str(root / folder / name.format(30))


def test_another_folder_of_pictures_can_be_given(root, tmp_path):
    draw_pictures(root, "coco2017", "{:012d}.jpg")
    assert load("refcoco", "val", root, cache_dir=tmp_path, image_folder="coco2017/")[0].image == str(root / "coco2017/000000000030.jpg")


def test_image_ids_may_be_text(root, tmp_path):
    draw_pictures(root, "coco2017", "{:012d}.jpg")

    def with_text(entries, key):
        return [entry | {key: str(entry[key])} for entry in entries]

    content = {"images": with_text(IMAGES, "id"), "annotations": with_text(ANNOTATIONS, "image_id")}
    (root / "refcoco/instances.json").write_text(json.dumps(content), encoding="utf-8")
    write_refs(root, "refcoco", with_text(refs(), "image_id"))
    sample = load("refcoco", "val", root, cache_dir=tmp_path, image_folder="coco2017")[0]
    assert (sample.image_id, sample.image) == ("30", str(root / "coco2017/000000000030.jpg"))
    with pytest.raises(FileNotFoundError, match="refcoco val: .* looked for nowhere; see the docs page RefCOCO"):
        load("refcoco", "val", root, cache_dir=tmp_path, image_folder="nowhere")


def test_a_split_that_the_file_does_not_have_is_refused_with_those_it_has(root, tmp_path):
    with pytest.raises(ValueError, match=r"refs\(unc\).p has no split 'test', it has val, train, testA; see the docs page"):
        load("refcoco", "test", root, cache_dir=tmp_path)


def test_refs_as_json_are_preferred_and_give_the_same(root, tmp_path):
    before = list(load("refcoco", "val", root, cache_dir=tmp_path).rows)
    (root / "refcoco/refs(unc).json").write_text(json.dumps(refs()), encoding="utf-8")
    (root / "refcoco/refs(unc).p").write_bytes(b"broken")
    assert list(load("refcoco", "val", root, cache_dir=tmp_path).rows) == before


def test_old_pickles_of_grefcoco_are_read(root, tmp_path):
    before = list(load("grefcoco", "val", root, cache_dir=tmp_path).rows)
    (root / "grefcoco/grefs(unc).json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no grefcoco/grefs\(unc\).json in"):
        load("grefcoco", "val", root, cache_dir=tmp_path)
    (root / "grefcoco/grefs(unc).p").write_bytes(pickle.dumps(grefs(), 0))
    assert list(load("grefcoco", "val", root, cache_dir=tmp_path).rows) == before


@pytest.mark.parametrize("file", ["{name}/{name}_{split}.json", "{name}/{split}_psalm.json", "{name}_{split}.json"])
@pytest.mark.parametrize("name, content", [("refcoco", refs()), ("grefcoco", grefs())])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_released_json_gives_the_rows_of_the_refs(name, content, split, file, root, tmp_path):
    items = released_items(content, split, {"images": IMAGES, "annotations": ANNOTATIONS})
    (root / file.format(name=name, split=split)).write_text(json.dumps(items), encoding="utf-8")
    rows = list(load(name, split, root, cache_dir=tmp_path).rows)
    (root / name / "instances.json").unlink()
    assert rows and list(load(name, split, root, cache_dir=tmp_path, source="psalm_json").rows) == rows
    with pytest.raises(FileNotFoundError, match=rf"{name} testA: there is none of {name}/.*; splits that have a file: {split}; .*--format"):
        load(name, "testA", root, cache_dir=tmp_path, source="psalm_json")


def nothing(_):
    pass


# what is done to the refs, what is done to the annotations, message
BROKEN = {
    "no such annotation": (
        lambda refs: refs[0].update(ann_id=77),
        nothing,
        "ref 7, sentence 70: refcoco/instances.json has no annotation 77",
    ),
    "no such image": (lambda refs: refs[0].update(image_id=77), nothing, "ref 7, sentence 70: refcoco/instances.json lists no image 77"),
    "another image": (
        lambda refs: refs[0].update(ann_id=14),
        nothing,
        "ref 7, sentence 70: annotation 14 is of image 20, but the ref of 30",
    ),
    "no annotation": (lambda refs: refs[0].pop("ann_id"), nothing, "the field 'ann_id' is missing"),
    "list of annotations": (lambda refs: refs[0].update(ann_id=[12]), nothing, "unhashable"),
    "no split": (lambda refs: refs[0].pop("split"), nothing, "the field 'split' is missing"),
    "no sentences": (lambda refs: refs[0].pop("sentences"), nothing, "ref 7: the field 'sentences' is missing"),
    "sentences are text": (lambda refs: refs[0].update(sentences="cup"), nothing, "ref 7: expected a list of sentences, got 'cup'"),
    "no text": (lambda refs: [s.pop("sent") for s in refs[0]["sentences"]], nothing, "ref 7, sentence 70: the field 'sent' is missing"),
    "number as text": (lambda refs: [s.update(sent=5) for s in refs[0]["sentences"]], nothing, "the text of sentence 70, got 5"),
    "sentence is text": (lambda refs: refs[0].update(sentences=["cup"]), nothing, "indices must be"),
    "polygon": (nothing, lambda annotations: annotations[1].update(segmentation=[[1, 2, 3]]), "annotation 12: polygon 0"),
    "size": (
        nothing,
        lambda annotations: annotations[1].update(segmentation={"size": [6, 4], "counts": [24]}),
        "annotation 12: the mask is",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_ref_is_named_or_left_out(case, root, tmp_path):
    change_refs, change_annotations, message = BROKEN[case]
    content, annotations = refs(), json.loads(json.dumps(ANNOTATIONS))
    change_refs(content)
    change_annotations(annotations)
    write_refs(root, "refcoco", content)
    write_instances(root, "refcoco", annotations)
    with pytest.raises(ValueError, match=rf"refcoco val: refcoco/refs\(unc\).p, .*{message}.*docs page RefCOCO"):
        load("refcoco", "val", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in load("refcoco", "val", root, cache_dir=tmp_path, on_error="skip")] == ["81", "90"]


@pytest.mark.parametrize("ids", [[-1, 11], [], 12])
def test_ids_of_grefcoco_that_say_nothing_clear_are_refused(ids, root, tmp_path):
    content = grefs()
    content[0]["ann_id"] = ids
    write_refs(root, "grefcoco", content)
    with pytest.raises(ValueError, match=r"grefcoco val: grefcoco/grefs\(unc\).json, ref 1, sentence 10: expected ann_id as a list of ids"):
        load("grefcoco", "val", root, cache_dir=tmp_path)


def test_a_broken_item_of_the_released_json_is_named(root, tmp_path):
    items = released_items(refs(), "val", {"images": IMAGES, "annotations": ANNOTATIONS})
    items[1].pop("anns")
    (root / "refcoco/refcoco_val.json").write_text(json.dumps(items), encoding="utf-8")
    with pytest.raises(ValueError, match="refcoco val: refcoco/refcoco_val.json, item 1, sentence 81: the field 'anns' is missing"):
        load("refcoco", "val", root, cache_dir=tmp_path, source="psalm_json")


def test_files_that_hold_no_refs_are_refused(root, tmp_path):
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Counter()], 2))
    with pytest.raises(ValueError, match=r"refcoco val: .*refcoco/refs\(unc\).p: the pickle asks for collections.Counter.*download"):
        load("refcoco", "val", root, cache_dir=tmp_path)
    (root / "refcoco/refs(unc).json").write_text('{"refs": []}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"refcoco val: .*refcoco/refs\(unc\).json holds no list of refs"):
        load("refcoco", "val", root, cache_dir=tmp_path)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("refcoco", {"protocol": "all"}, "refcoco: unknown protocol 'all', expected one of per_expression, merged"),
        ("refcoco", {"source": "pickle"}, "refcoco: unknown source 'pickle', expected one of refs, psalm_json"),
        ("refcoco", {"split_by": "umd"}, "refcoco: unknown split_by 'umd', expected one of unc, google"),
        ("refcoco+", {"split_by": "google"}, "refcoco\\+: unknown split_by 'google', expected one of unc"),
        ("refcocog", {"split_by": "unc"}, "refcocog: unknown split_by 'unc', expected one of umd, google"),
        ("refcocog", {"split_by": "google", "source": "psalm_json"}, "refcocog: the files of source='psalm_json' have the splits of 'umd'"),
        ("grefcoco", {"split_by": "unc"}, "grefcoco: unknown option split_by"),
    ],
)
def test_unknown_options_are_refused(name, options, message, root, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(name, "val", root, cache_dir=tmp_path, **options)


def test_counts_are_those_of_the_file_and_published_ones_are_of_the_first_division(root, tmp_path):
    (root / "refcoco/refs(google).p").write_bytes(pickle.dumps(refs(), 2))
    arguments = {"config_name": "refcoco", "cache_dir": str(tmp_path), "data_dir": str(root), "split": "val"}
    builder = RefCoco(**arguments)
    assert builder.counts() == {"refs": 3, "sentences": 5}
    assert builder.published["val"] == {"refs": 3811, "sentences": 10834}
    assert RefCoco(**arguments, split_by="google").published == {}
    for kind in (RefCoco, RefCocoPlus, RefCocog):
        assert set(kind.published) <= set(DATASETS[kind.folder].splits)


# The real files. Expectations are read from them, so that another sample of the same layout does as well.

samples = pytest.mark.samples
ROOT = SAMPLES / "refer_seg"
FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p", "grefcoco": "grefs(unc).json"}
names = pytest.mark.parametrize("name", FILES)


def real_refs(name):
    path = ROOT / name / FILES[name]
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return pickle.loads(path.read_bytes(), encoding="latin1")


def real_splits(name):
    return list(dict.fromkeys(ref["split"] for ref in real_refs(name)))


@samples
@names
def test_real_rows_are_those_of_the_released_files(name, tmp_path):
    tool = COCO(str(ROOT / name / "instances.json"))
    for split in real_splits(name):
        items = released_items(real_refs(name), split, tool.dataset)
        expected = [(item, [s for s in item["instruction"] if s["sent"].strip()]) for item in items]
        merged = load(name, split, ROOT, cache_dir=tmp_path, protocol="merged", keep_empty=True, check_images=True)
        single = load(name, split, ROOT, cache_dir=tmp_path, protocol="per_expression", keep_empty=True)
        for dataset, pairs in (
            (merged, [(item, sentences) for item, sentences in expected if sentences]),
            (single, [(item, [sentence]) for item, sentences in expected for sentence in sentences]),
        ):
            assert len(dataset) == len(pairs)
            for sample, (item, sentences) in zip(dataset, pairs, strict=True):
                assert sample.image.endswith("/" + item["image_info"]["file_name"]) and sample.image_id == str(item["image_info"]["id"])
                assert sample.image_size == (item["image_info"]["height"], item["image_info"]["width"])
                assert sample.expressions == tuple(sentence["sent"] for sentence in sentences)
                assert sample.record_id == ",".join(str(sentence["sent_id"]) for sentence in sentences)
                assert [(segment.annotation_id, segment.category_id, segment.is_crowd) for segment in sample.segments] == [
                    (annotation["id"], annotation["category_id"], bool(annotation["iscrowd"])) for annotation in item["anns"]
                ]
                for annotation, bitmap in zip(item["anns"], bitmaps(sample), strict=True):
                    assert np.array_equal(bitmap, tool.annToMask(annotation))


@samples
@names
def test_the_released_json_of_real_refs_gives_equal_rows(name, tmp_path):
    root = tmp_path / "refer_seg"
    (root / name).mkdir(parents=True)
    for entry in [ROOT / "images", *(ROOT / name).iterdir()]:
        (root / entry.relative_to(ROOT)).symlink_to(entry)
    instances = json.loads((ROOT / name / "instances.json").read_text(encoding="utf-8"))
    for split in real_splits(name):
        items = released_items(real_refs(name), split, instances)
        (root / name / f"{name}_{split}.json").write_text(json.dumps(items), encoding="utf-8")
        of_refs = load(name, split, root, cache_dir=tmp_path)
        assert list(load(name, split, root, cache_dir=tmp_path, source="psalm_json").rows) == list(of_refs.rows)


@samples
def test_tags_of_real_expressions_count_their_objects(tmp_path):
    for split in real_splits("grefcoco"):
        rows = load("grefcoco", split, ROOT, cache_dir=tmp_path, protocol="per_expression", keep_empty=True).rows
        kinds = ["no_target", "one_target"] + ["several_targets"] * 100
        expected = [
            kinds[len(ref["ann_id"]) if ref["ann_id"] != [-1] else 0]
            for ref in real_refs("grefcoco")
            if ref["split"] == split
            for sentence in ref["sentences"]
            if sentence["sent"].strip()
        ]
        assert [tag for (tag,) in rows["tags"]] == expected


@samples
@names
def test_a_second_pass_over_real_refs_gives_the_same(name, tmp_path):
    dataset = load(name, "train", ROOT, cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load(name, "train", ROOT, cache_dir=tmp_path))


@samples
@names
def test_two_ranks_share_the_real_refs(name, tmp_path):
    rows = load(name, "val", ROOT, cache_dir=tmp_path, streaming=True).rows
    parts = [[row["record_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(row["record_id"] for row in rows)
    assert len(set(parts[0] + parts[1])) == len(parts[0] + parts[1])


@samples
@pytest.mark.parametrize("name", ["refcoco+", "grefcoco"])
def test_two_processes_make_the_same_real_rows(name, tmp_path):
    one = load(name, "val", ROOT, cache_dir=tmp_path / "one")
    two = load(name, "val", ROOT, cache_dir=tmp_path / "two", num_proc=2)
    assert list(one.rows) == list(two.rows)
