"""Own data from files to a run: the mixture that is chosen, three steps, the held-out figure, and what the log says about the run."""

import ast
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psalm_hf import PsalmForSegmentation
from psalm_hf.cli.command import refuse
from psalm_hf.cli.main import main
from psalm_hf.data import list_datasets
from psalm_hf.data.mixture import choose_mixture
from psalm_hf.data.own.holdout import is_held_out
from psalm_hf.tiny import build_tiny
from psalm_hf.training import build_trainer
from tests.data.own.layouts import write_layout

FORMATS = [name for name in list_datasets() if name.startswith("own_")]
SHORT = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random small model to start from."""
    folder = tmp_path_factory.mktemp("start")
    for part in build_tiny(image_size=64):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def config(tmp_path, start, **fields):
    """File of a config."""
    content = {"checkpoint": str(start), "output_dir": str(tmp_path / "run"), "max_steps": 3, **SHORT, **fields}
    (tmp_path / "run.yaml").write_text(json.dumps(content), encoding="utf-8")
    return str(tmp_path / "run.yaml")


def source(name, tmp_path, number=6, **options):
    """Writes files; returns the dataset and its options."""
    needed = write_layout(name, tmp_path / "data", number)
    return {"dataset": name, "data_dir": str(tmp_path / "data"), **needed, **options}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_trained_and_measured_on_images_that_were_held_out(name, start, tmp_path, capsys):
    data = source(name, tmp_path, holdout=0.5)
    assert main(["train", "--config", config(tmp_path, start, data=data)]) == 0
    printed = capsys.readouterr().err
    assert "categories: " in printed and "regions: all" in printed and ("sentences: " in printed) == (name == "own_jsonl")
    line = printed.strip().splitlines()[-1]
    assert line.startswith(f"checkpoint: {tmp_path / 'run'}; measure it: psalm evaluate ")
    PsalmForSegmentation.from_pretrained(tmp_path / "run")
    measure, use = (shlex.split(part.split(": ", 1)[1]) for part in line.split("; ")[1:])
    assert main([*measure[1:], "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "run/results/results.json").read_text(encoding="utf-8"))
    place = {"own_labelme": "", "own_yolo": "images/train/"}.get(name, "images/")
    held_out = sum(is_held_out(f"{place}{index}.png", 0.5) for index in range(6))
    assert results["split"] == "val" and results["percent"] and results["parts"][""]["counts"]["pictures"] == held_out
    if name == "own_coco":  # one is enough: nothing in it comes from the format
        assert main([*use[1:], "--device", "cpu", "--output", str(tmp_path / "used")]) == 0 and (tmp_path / "used.json").is_file()


def test_the_mixture_has_what_the_files_hold(tmp_path):
    data = source("own_jsonl", tmp_path)
    talk = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello."}]
    with open(tmp_path / "data/train.jsonl", "a") as file:
        file.write("\n" + json.dumps({"conversation": talk}))
    chosen = choose_mixture(data, weights={"regions": 0.5}, batch_sizes={"sentences": 8})
    assert chosen.weights == {"categories": 1, "sentences": 1, "regions": 0.5, "conversations": 1}
    assert chosen.batch_sizes == {"categories": 2, "sentences": 8, "regions": 2, "conversations": 4}
    assert chosen.rows == {"categories": 6, "sentences": 6, "regions": 48, "conversations": 1}
    assert chosen.sources["regions"] == {**data, "regions": "all"}
    assert chosen.sources["sentences"] == {**data, "condition": "sentence"}


def test_a_condition_or_kind_that_was_chosen_stays_the_only_one(tmp_path):
    data = source("own_jsonl", tmp_path)
    assert choose_mixture({**data, "condition": "sentence"}).weights == {"sentences": 1}
    assert choose_mixture({**data, "regions": "box"}).sources == {"regions": {**data, "regions": "box"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": {"dataset": "own_cocoo"}}, "source data: unknown dataset 'own_cocoo', .*did you mean own_coco"),
        ({"data": {"dataset": "own_coco", "data_dirr": "x"}}, "no option data_dirr, .*did you mean data_dir"),
        ({"weights": {"category": 1}}, "weights names category, but the sources that own_coco gives are categories, regions; did you mean"),
        ({"sources": {"mine": {}}}, "data and sources both say what to train on"),
        ({"data": {}}, "missing fields: give data"),
        ({"data": {"dataset": "shapes"}}, "names a dataset of files"),
        ({"streaming": True}, "for shapes or streamed rows give weights, batch_sizes and sources"),
        ({"condition": "region"}, "no rows with condition 'region', but category; own data has them with the option regions: all"),
        ({"condition": "conversation"}, "no rows with condition 'conversation', but category"),
    ],
)
def test_what_cannot_be_chosen_is_refused(fields, message, start, tmp_path):
    data = source("own_coco", tmp_path, number=2)
    given = {"data": {**data, **{name: fields.pop(name) for name in ("streaming", "condition") if name in fields}}, **fields}
    with pytest.raises(ValueError, match=message):
        build_trainer(config(tmp_path, start, **given))


def test_a_run_without_images_held_out_says_so_before_it_starts_and_at_its_end(start, tmp_path, capsys):
    fields = {"sources": {"mine": source("own_labelme", tmp_path, number=2)}, "weights": {"mine": 1}, "batch_sizes": {"mine": 2}}
    assert main(["train", "--config", config(tmp_path, start, **fields, max_steps=1)]) == 0
    printed = capsys.readouterr().err
    assert "source mine: no image is held out" in printed and "holdout=0.1" in printed
    assert "; measure it: on images of its own, of which this run held out none" in printed.strip().splitlines()[-1]


def test_the_log_counts_ten_passes_over_four_images(start, tmp_path):
    """4 images in batches of 2: 2 steps are a pass, 20 are ten. The Trainer alone says 1 epoch and batches of 8."""
    sources = {"mine": source("own_labelme", tmp_path, number=4)}
    fields = {"sources": sources, "weights": {"mine": 1}, "batch_sizes": {"mine": 2}, "max_steps": 20, "logging_steps": 2, "save_steps": 14}
    run = build_trainer(config(tmp_path, start, **fields | {"save_strategy": "steps"}))
    run.train()
    *logged, end = run.state.log_history
    assert [entry["epoch"] for entry in logged] == [float(number) for number in range(1, 11)] and end["epoch"] == 10
    assert end["train_samples_per_second"] == pytest.approx(40 / end["train_runtime"], abs=1e-3)
    assert end["train_steps_per_second"] == pytest.approx(20 / end["train_runtime"], abs=1e-3)
    saved = json.loads((tmp_path / "run/checkpoint-14/trainer_state.json").read_text(encoding="utf-8"))
    assert (saved["epoch"], saved["train_batch_size"], saved["num_train_epochs"]) == (7, 2, 10)
    resumed = build_trainer(config(tmp_path, start, **fields))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-14"))
    end = resumed.state.log_history[-1]
    assert end["epoch"] == 10 and end["train_samples_per_second"] == pytest.approx(12 / end["train_runtime"], abs=1e-3)


@pytest.mark.slow  # half a minute; that processes share the samples is also held by tests/training/test_engines.py
@pytest.mark.engines
def test_two_processes_count_the_samples_of_both(start, tmp_path):
    """8 images, 2 processes with batches of 2: 2 steps are a pass, 20 are ten."""
    sources = {"mine": source("own_labelme", tmp_path, number=8)}
    fields = {"sources": sources, "weights": {"mine": 1}, "batch_sizes": {"mine": 2}, "max_steps": 20, "logging_steps": 2, "save_steps": 20}
    words = [*"-m torch.distributed.run --standalone --nproc_per_node 2 -m psalm_hf.cli.train --config".split()]
    run = [sys.executable, *words, config(tmp_path, start, **fields | {"save_strategy": "steps"})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "HF_DATASETS_CACHE": str(tmp_path)}
    finished = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    saved = json.loads((tmp_path / "run/checkpoint-20/trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in saved["log_history"]] == [float(number) for number in range(1, 11)]
    assert (saved["epoch"], saved["train_batch_size"]) == (10, 2)
    end = ast.literal_eval(next(line for line in finished.stdout.splitlines() if "train_runtime" in line))
    assert float(end["train_samples_per_second"]) == pytest.approx(80 / float(end["train_runtime"]), rel=1e-2)
    assert finished.stderr.count("checkpoint: ") == 1  # one process speaks


def test_sources_of_different_sizes_are_counted_together(start, tmp_path):
    """A pass is as many samples as all sources have; the batch size is the mean, rounded."""
    data = source("own_jsonl", tmp_path, number=4)
    sources = {name: {**data, "condition": name} for name in ("category", "sentence")}
    fields = {"sources": sources, "weights": dict.fromkeys(sources, 1), "batch_sizes": {"category": 1, "sentence": 4}}
    run = build_trainer(config(tmp_path, start, **fields, max_steps=5))
    drawn = [len(batch) for batch in run.batch_sampler]
    assert set(drawn) == {1, 4}
    run.train()
    assert [entry["epoch"] for entry in run.state.log_history[:-1]] == [sum(drawn[: step + 1]) / 8 for step in range(5)]
    assert run.state.train_batch_size == round(sum(drawn) / 5)


def fail(samples):
    raise ValueError("image 7:\nno image")


def test_an_error_in_a_worker_ends_all_workers_and_is_one_line(start, tmp_path, capsys):
    run = build_trainer(config(tmp_path, start, data=source("own_coco", tmp_path), dataloader_num_workers=2))
    run.data_collator = fail
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="Original Traceback") as caught:
        run.train()
    assert not multiprocessing.active_children()  # while the error holds its frames, as at the end of the command
    assert signal.getsignal(signal.SIGTERM) == before
    capsys.readouterr()
    assert refuse(caught.value) == 2 and capsys.readouterr().err == "error: image 7: no image\n"


def test_what_is_found_wrong_in_training_is_one_line(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("psalm_hf.training.stages.PsalmCollator", lambda *_, **__: fail)
    assert main(["train", "--config", config(tmp_path, start, data=source("own_coco", tmp_path))]) == 2
    assert capsys.readouterr().err.endswith("error: image 7: no image\n")


def test_conversations_without_answers_are_refused_in_training(start, tmp_path):
    (tmp_path / "data").mkdir()
    talk = [{"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "data/train.jsonl").write_text(json.dumps({"conversation": talk}), encoding="utf-8")
    run = build_trainer(config(tmp_path, start, data={"dataset": "own_jsonl", "data_dir": str(tmp_path / "data")}))
    collate = run.data_collator
    run.data_collator = lambda samples: {name: value for name, value in collate(samples).items() if name != "labels"}
    with pytest.raises(ValueError, match="no answer to learn"):
        run.train()
