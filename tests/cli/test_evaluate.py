"""The evaluate command: from files, or from the shapes world, to numbers, predictions and pictures; interrupted, divided and refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.cli import evaluate as script
from psalm_hf.evaluation.evaluation import measurement
from psalm_hf.evaluation.formats.coco_panoptic import PanopticFiles
from psalm_hf.tiny import build_tiny
from tests.conftest import SAMPLES
from tests.evaluation.test_benchmarks import DATA
from tests.test_locking import end, hold

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "evaluate.py"

CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 7, "name": "grass", "isthing": 0}]
SHAPES = ("--benchmark", "shapes", "--checkpoint", "psalm-tiny", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`coco`, seven pictures with a cat on grass, and `checkpoint`, a random model."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name in ("val2017", "panoptic_val2017", "annotations"):
        (folder / "coco" / name).mkdir(parents=True)
    images, panoptic, instances = [], [], []
    for number in range(1, 8):
        pixels = np.full((48, 64, 3), (0, 160, 0), dtype=np.uint8)
        pixels[8:40, 8 : 8 + 4 * number] = (200, 120, 40)
        Image.fromarray(pixels).save(folder / f"coco/val2017/{number:012}.jpg")
        ids = np.zeros((48, 64, 3), dtype=np.uint8)
        ids[..., 0] = np.where(pixels[..., 0] == 200, 1, 2)
        Image.fromarray(ids).save(folder / f"coco/panoptic_val2017/{number:012}.png")
        images.append({"id": number, "file_name": f"{number:012}.jpg", "height": 48, "width": 64})
        segments = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 7, "iscrowd": 0}]
        panoptic.append({"image_id": number, "file_name": f"{number:012}.png", "segments_info": segments})
        right = 8 + 4 * number
        polygon = [8, 8, right, 8, right, 40, 8, 40]
        instances.append({"id": number, "image_id": number, "category_id": 1, "segmentation": [polygon], "iscrowd": 0})
    for name, annotations in (("panoptic", panoptic), ("instances", instances)):
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / f"coco/annotations/{name}_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    for part in build_tiny():
        part.save_pretrained(folder / "checkpoint")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


def run(*words):
    return script.main([str(word) for word in words])


def on_files(folder, output, *more, benchmark="coco_panoptic"):
    files = ("--checkpoint", folder / "checkpoint", "--data-dir", folder / "coco", "--output-dir", output, "--device", "cpu")
    return run("--benchmark", benchmark, *files, *more)


def results(output):
    """Without what differs from run to run."""
    content = json.loads((output / "results.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # NaN is no JSON
    del content["run"]
    return content


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_numbers_choices_and_versions_are_printed_and_stored(folder, tmp_path, capsys):
    output = tmp_path / "new" / "results"
    assert on_files(folder, output, "--threshold", 0.3, "--overlap", 0.1, "--limit", 3) == 0
    record = results(output)
    assert (record["benchmark"], record["split"], record["data"]["limit"]) == ("coco_panoptic", "val", 3)
    assert record["protocol"] == {"name": "community", "threshold": 0.3, "overlap": 0.1, "semantic_resize": "logits"}
    assert record["parts"][""]["counts"]["pictures"] == 3 and record["parts"][""]["counts"]["segments"] == 6
    assert set(record["versions"]) == {"python", "torch", "transformers", "psalm_hf"}
    assert record["parts"][""]["per_category"].keys() == {"cat", "grass"}
    assert record["checkpoint"]["name"] == "checkpoint" and len(record["checkpoint"]["sha256"]) == 64
    assert record["published"][""]["numbers"] == {"panoptic PQ": 55.9}
    assert f"semantic mIoU                       {record['percent']['semantic mIoU']:7.2f}" in capsys.readouterr().out
    assert "| coco_panoptic | val | community | 3 |" in (output / "results.md").read_text(encoding="utf-8")


def test_it_measures_what_is_measured_during_training(folder, tmp_path):
    on_files(folder, tmp_path / "out")
    model = PsalmForSegmentation.from_pretrained(folder / "checkpoint").eval()
    processor = PsalmProcessor.from_pretrained(folder / "checkpoint")
    source = {"dataset": "coco_panoptic", "data_dir": str(folder / "coco")}
    found = measurement(processor, images=7, batch_size=4, sources={"mine": source})(model)
    assert found == {f"mine {name}": value for name, value in results(tmp_path / "out")["percent"].items()}


def test_a_model_without_mask_tokens_gets_the_panoptic_part(tmp_path, capsys):
    for part in build_tiny(decouple_masks=False):
        part.save_pretrained(tmp_path / "checkpoint")
    words = ("--benchmark", "shapes", "--checkpoint", tmp_path / "checkpoint", "--limit", 1, "--device", "cpu")
    assert run(*words, "--output-dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "panoptic PQ-stuff" in printed and "referring" not in printed and "region" not in printed
    assert run(*words, "--parts", "box", "--output-dir", tmp_path / "other") == 2
    assert "segments by categories only" in capsys.readouterr().err


def test_baselines_are_printed_and_stored_beside_the_numbers(tmp_path, capsys):
    assert run(*SHAPES, "--limit", 1, "--parts", "box", "questions", "--output-dir", tmp_path) == 0
    record = results(tmp_path)
    assert record["baselines"].keys() <= record["percent"].keys()
    name = "region mIoU, box"
    assert f"{name:<36}{record['percent'][name]:7.2f} ({record['baselines'][name]:.2f})" in capsys.readouterr().out


def test_its_predictions_give_its_numbers(folder, tmp_path):
    on_files(folder, tmp_path / "first", "--threshold", 0.3, "--overlap", 0.1)
    words = ("--benchmark", "coco_panoptic", "--data-dir", folder / "coco", "--device", "cpu", "--output-dir", tmp_path / "again")
    assert run(*words, "--predictions", tmp_path / "first" / "predictions") == 0
    first, again = results(tmp_path / "first"), results(tmp_path / "again")
    assert first["percent"] == again["percent"] and again["checkpoint"] is None


def test_predictions_on_drawn_pictures_need_no_checkpoint(tmp_path):
    run(*SHAPES, "--limit", 2, "--output-dir", tmp_path / "first")
    words = ("--benchmark", "shapes", "--limit", 2, "--device", "cpu", "--output-dir", tmp_path / "again")
    assert run(*words, "--predictions", tmp_path / "first" / "predictions") == 0
    first, again = results(tmp_path / "first"), results(tmp_path / "again")
    assert first["percent"] == again["percent"] and first["rows"] == again["rows"]
    assert first["protocol"]["no_target"] == "processor" and 0 < first["protocol"]["no_target_threshold"] < 1


def test_a_checkpoint_without_thresholds_goes_by_the_benchmarks(folder, tmp_path, capsys):
    words = ("--benchmark", "shapes", "--checkpoint", folder / "checkpoint", "--parts", "referring", "--limit", 1, "--device", "cpu")
    assert run(*words, "--output-dir", tmp_path / "out") == 0
    assert results(tmp_path / "out")["protocol"]["no_target"] == "threshold"
    assert run(*words, "--no-target", "processor", "--output-dir", tmp_path / "other") == 2
    assert "has no thresholds for expressions; run psalm calibrate" in capsys.readouterr().err


@pytest.mark.engines
def test_an_error_of_another_process_is_told(folder, tmp_path):
    words = ["--benchmark", "coco_panoptic", "--checkpoint", str(folder / "checkpoint"), "--device", "cpu", "--batch-size", "1"]
    (tmp_path / "coco").mkdir()
    for path in (folder / "coco").rglob("*.*"):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    broken = tmp_path / "coco" / "val2017" / "000000000002.jpg"  # the second row is that of the second process
    broken.write_bytes(broken.read_bytes()[:-60])
    launch = [sys.executable, "-m", *LAUNCHERS["torchrun"], str(SCRIPT), *words, "--data-dir", str(tmp_path / "coco")]
    cache = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    found = subprocess.run([*launch, "--output-dir", str(tmp_path / "two")], env=environment() | cache, capture_output=True, text=True)
    assert found.returncode and "error in process 1: " in found.stderr and "000000000002.jpg" in found.stderr, found.stderr[-3000:]


def test_the_worst_and_the_best_answers_are_drawn(folder, tmp_path):
    on_files(folder, tmp_path / "out", "--visualize", 3)
    drawn = sorted(path.name.partition("_0")[0] for path in (tmp_path / "out" / "pictures" / "semantic").iterdir())
    assert drawn == ["best", "contact_sheet.png", "worst", "worst"]


def test_parts_can_be_chosen(folder, tmp_path):
    on_files(folder, tmp_path / "out", "--parts", "box", "mask", "--limit", 2, benchmark="coco_interactive")
    assert results(tmp_path / "out")["parts"].keys() == {"box", "mask"}


def test_batches_change_nothing(tmp_path):
    for size in (1, 4):
        assert run(*SHAPES, "--limit", 5, "--batch-size", size, "--output-dir", tmp_path / str(size)) == 0
    assert results(tmp_path / "1") == results(tmp_path / "4")
    assert results(tmp_path / "1")["percent"]["panoptic PQ"] > 50


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "configs" / "accelerate_cpu.yaml")],
}


@pytest.mark.engines
@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)])
def test_processes_change_nothing(launcher, tmp_path):
    words = [*SHAPES, "--parts", "panoptic", "referring", "--limit", "5", "--batch-size", "2"]  # an odd number of batches
    assert run(*words, "--output-dir", tmp_path / "one") == 0
    launch = [sys.executable, "-m", *LAUNCHERS[launcher], str(SCRIPT), *words]
    subprocess.run([*launch, "--output-dir", str(tmp_path / "two")], env=environment(), check=True, capture_output=True)
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert len(list((tmp_path / "two" / "answers" / "panoptic").iterdir())) == 2


@pytest.mark.engines
def test_a_second_run_on_a_folder_is_refused_and_harms_nothing(folder, tmp_path, capsys):
    output = tmp_path / "out"
    first = hold(output)
    assert on_files(folder, output, "--limit", 1) == 2
    assert f"out: another run is writing there (process {first} on" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["_psalm"]
    end(first)
    (output / ".run.json.1.unfinished").write_text("{")
    assert on_files(folder, output, "--limit", 1) == 0  # what a run has left that was killed as it began does not block the folder
    assert sorted(path.name for path in output.iterdir()) == ["answers", "predictions", "results.json", "results.md", "run.json"]


def test_results_are_written_after_the_predictions_that_they_stand_for(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(PanopticFiles, "write", full)
        assert on_files(folder, output, "--limit", 1) == 2
    assert (output / "answers").is_dir() and not (output / "results.json").exists()
    assert on_files(folder, output, "--limit", 1, "--resume") == 0
    assert (output / "predictions/panoptic/predictions.json").is_file() and (output / "results.json").is_file()


def test_a_damaged_answer_and_a_damaged_record_of_the_run_are_named(folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert on_files(folder, output, "--limit", 2) == 0
    answers = output / "answers/000.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text(lines[0][:40] + "\n" + lines[1])
    assert on_files(folder, output, "--limit", 2, "--resume") == 2
    assert "answers/000.jsonl, line 1: " in capsys.readouterr().err
    answers.write_text(lines[1])
    assert on_files(folder, output, "--limit", 2, "--resume") == 0
    (output / "run.json").write_text('{"benchmark": "coco')
    assert on_files(folder, output, "--limit", 2, "--resume") == 2
    assert "run.json: is damaged" in capsys.readouterr().err


def test_a_killed_evaluation_goes_on(tmp_path):
    words = [*SHAPES, "--parts", "referring", "--limit", "20"]
    killed = [*words, "--batch-size", "1", "--output-dir", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, str(SCRIPT), *killed], env=environment(), stderr=subprocess.DEVNULL)
    answers = tmp_path / "killed" / "answers" / "referring" / "000.jsonl"
    while process.poll() is None and not (answers.exists() and answers.read_bytes().count(b"\n") >= 20):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = answers.read_bytes().splitlines(keepends=True)
    assert 20 <= len(lines) < 80 and not (tmp_path / "killed" / "results.json").exists()
    answers.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # as if it had been killed while it wrote
    assert run(*killed, "--resume") == 0
    assert run(*words, "--output-dir", tmp_path / "whole") == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert sorted(json.loads(line)["row"] for line in answers.read_bytes().splitlines()) == list(range(80))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "coco"], "unknown benchmark 'coco', expected one of coco_panoptic, coco_instance,"),
        (["--protocol", "paper"], "unknown protocol 'paper', expected one of community, released"),
        (
            ["--no-target", "area"],
            "coco_panoptic: no_target does not concern it; its numbers depend on threshold, overlap, semantic_resize",
        ),
        (["--parts", "box"], "--parts box: coco_panoptic has the parts none"),
        (["--split", "test"], "coco_panoptic: unknown split 'test', expected one of train, val"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--checkpoint", "nowhere/at/all"], "nowhere/at/all"),
        (["--options", "{kind: box}"], "coco_panoptic: unknown option kind"),
        (["--benchmark", "coco_panoptik"], "did you mean coco_panoptic?"),
        (["--device", "cuda"], "--device cuda: torch finds no such device"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line_before_a_model_is_loaded(folder, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.setattr(PsalmForSegmentation, "from_pretrained", pytest.fail)
    assert on_files(folder, tmp_path / "out", *words) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("error: ") and message in printed
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_answers_is_refused(folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert on_files(folder, output, "--limit", 1) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for words, message in (
        (["--limit", 1], "holds an evaluation; go on with it by --resume"),
        (["--limit", 1, "--resume", "--threshold", 0.5], "with another protocol: "),
        (["--limit", 2, "--resume"], "with another data: "),
    ):
        assert on_files(folder, output, *words) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    assert on_files(folder, tmp_path / "own") == 2
    assert "is not empty, and holds no evaluation" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line | {"image_id": "99"}, "line 2: image '99', record None is none of the 7 rows"),
        (lambda line: line | {"image_id": "1"}, "line 2: image '1', record None was there before"),
        (lambda line: line | {"masks": [{**line["masks"][0], "size": [64, 48]}]}, "image 2, region 0: "),
        (lambda line: line | {"masks": []}, "image 2, prediction: 0 masks and 1 scores for 1 regions"),
        (lambda line: {"image_id": "2"}, "line 2: expected a JSON object with image_id, record_id, masks, scores"),
        (None, "no prediction for 1 rows, such as image '2'"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(folder, tmp_path, change, message, capsys):
    on_files(folder, tmp_path / "out", "--parts", "mask", benchmark="coco_interactive")
    path = tmp_path / "out" / "predictions" / "mask" / "region" / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1:2] = [] if change is None else [change(lines[1])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--benchmark", "coco_interactive", "--parts", "mask", "--data-dir", folder / "coco", "--device", "cpu")
    assert run(*words, "--predictions", tmp_path / "out" / "predictions", "--output-dir", tmp_path / "again") == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--batch-size", "-2"], "--batch-size must be at least 1, got -2"),
        (["--threshold", "80"], "--threshold must be between 0 and 1, got 80"),
        (["--options", "point"], "--options: is a YAML mapping"),
        (["--options", "{a: ["], "--options: is a YAML mapping"),
        (["--options", "{1: 2}"], "--options: is a YAML mapping"),
        (["--predictions", "folder"], "give either --checkpoint or --predictions"),
    ],
)
def test_options_that_mean_nothing_are_refused(words, message, capsys):
    assert script.main(["--checkpoint", "c", "--benchmark", "coco_panoptic", "--output-dir", "out", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.samples
@pytest.mark.parametrize("name", [name for name, (folder, _) in DATA.items() if folder is not None])
def test_batches_and_processes_change_nothing_on_real_samples(name, tmp_path):
    folder, more = DATA[name]
    words = ["--benchmark", name, "--checkpoint", "psalm-tiny", "--device", "cpu", "--data-dir", str(SAMPLES / folder), "--limit", "5"]
    words += ["--options", json.dumps(more)]
    for size in ("1", "4"):
        assert run(*words, "--batch-size", size, "--output-dir", tmp_path / size) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(SCRIPT), *words]
    cache = {"HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
    subprocess.run([*launch, "--output-dir", str(tmp_path / "two")], env=environment() | cache, check=True, capture_output=True)
    assert results(tmp_path / "1") == results(tmp_path / "4") == results(tmp_path / "two")
