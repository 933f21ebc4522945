"""Pushing and loading over HTTP: models, processors and runs of the Trainer, against the server of tests/hub_server.py.

Two client processes for the whole file, because huggingface_hub reads its address once, when it is imported: one pushes and loads back,
the other loads where psalm_hf cannot be imported. Neither may speak to any machine but this one.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import upload_file
from PIL import Image
from safetensors.torch import load

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.tiny import build_tiny
from psalm_hf.training.model_card import describe_parts, model_card
from tests.hub_server import HubServer
from tests.training.test_trainer import Evaluation, trainer

pytestmark = pytest.mark.engines  # two more processes, a minute

ROOT = Path(__file__).parents[2]
CODE = {"configuration_psalm.py", "modeling_psalm.py", "processing_psalm.py", "image_processing_psalm.py"}  # and what these import
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
LOADABLE = WEIGHTS | PROCESSOR | CODE | {"README.md"}

# A client that tries to leave the machine ends at once: an exception might be caught and tried again.
STAY_HERE = """
import os, sys, traceback
def refuse(event, arguments):
    address = arguments[1] if event == "socket.connect" else arguments[0] if event == "socket.getaddrinfo" else "127.0.0.1"
    host = address[0] if isinstance(address, tuple) else address
    if host not in ("127.0.0.1", b"127.0.0.1"):
        traceback.print_stack()
        print(event, address, file=sys.stderr, flush=True)
        os._exit(97)
sys.addaudithook(refuse)
"""
WITHOUT_PSALM = """
sys.modules["psalm_hf"] = None  # any import of it fails
import torch
exec(open(sys.argv[1]).read())  # the code of the card that arrived
assert type(model).__module__.startswith("transformers_modules"), type(model)
torch.save((model.state_dict(), found["segmentation"]), sys.argv[2])
"""


def run_client(hub, folder, code, *arguments):
    """Runs Python in a process whose Hub is `hub`; nothing of the caller's environment reaches it but what is named here."""
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ} | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])),
    }
    command = [sys.executable, "-c", STAY_HERE + code, *map(str, arguments)]
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    return run


def code_blocks(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def push_everything(output):
    """Pushes and reads as the first client; it leaves `results.json`, and the picture and masks of the card's code."""
    results = {}
    model, processor = build_tiny(seed=1)
    model.push_to_hub("me/parts", private=True)
    processor.push_to_hub("me/parts")
    results["same weights"] = is_same(model, PsalmForSegmentation.from_pretrained("me/parts"))
    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 100).convert("RGB")
    inputs = [each(images=picture, categories=["cup"]) for each in (processor, PsalmProcessor.from_pretrained("me/parts"))]
    results["same inputs"] = all(torch.equal(inputs[0][name], inputs[1][name]) for name in ("input_ids", "pixel_values"))
    results["private"] = refusal(lambda: PsalmForSegmentation.from_pretrained("me/parts", token=False, cache_dir=output / "none"))
    results["wrong token"] = refusal(lambda: model.push_to_hub("me/other", token="hf_wrong"))

    card = model_card("me/described", describe_parts(model), license="mit")
    upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="me/parts")
    with torch.no_grad():
        model.lm_head.weight += 1  # the Hub makes no commit of what it has
    model.push_to_hub("me/parts", commit_message="again")

    with torch.no_grad():
        model.lm_head.weight += 1
    model.push_to_hub("me/parts", revision="v2")
    read_back = [is_same(model, PsalmForSegmentation.from_pretrained("me/parts", revision=name)) for name in ("main", "v2")]
    results["same weights of main and v2"] = read_back

    results |= push_run(output)
    picture.save(output / "picture.png")
    names = {}
    exec(code_blocks((output / "run" / "README.md").read_text(encoding="utf-8"))[0], names)
    torch.save(names["found"]["segmentation"], output / "masks.pt")
    (output / "results.json").write_text(json.dumps(results))


def push_run(output):
    """Two steps of training that are pushed with every checkpoint and at the end."""
    options = {"push_to_hub": True, "hub_model_id": "me/run", "hub_token": HubServer.token, "hub_strategy": "checkpoint"}
    steps = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "hub_always_push": True}
    run = trainer(output / "run", Evaluation(30.0, 40.0), **options, **steps)
    run.train()
    run.push_to_hub(license="mit")
    wrong = options | {"hub_token": "hf_wrong"}
    return {
        "same weights after training": is_same(run.model, PsalmForSegmentation.from_pretrained("me/run")),
        "wrong token of a run": refusal(lambda: trainer(output / "wrong", **wrong)),
    }


def is_same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(action):
    """The message of the error that it ends with."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The server after both clients, what the first one found, and the folder with the files of both."""
    folder = tmp_path_factory.mktemp("client")
    with HubServer() as hub:
        push = "from pathlib import Path; from tests.training.test_hub import push_everything; push_everything(Path(sys.argv[1]))"
        run_client(hub, folder, push, folder)
        (folder / "remote.py").write_text(code_blocks(hub.files("me/run")["README.md"].decode())[1])
        run_client(hub, folder, WITHOUT_PSALM, "remote.py", "remote.pt")
        yield hub, json.loads((folder / "results.json").read_text()), folder


def test_the_server_knew_every_request(pushed):
    hub, _, _ = pushed
    assert hub.unknown == []
    assert sum(request.startswith("PUT /storage/") for request in hub.requests) >= 3


def test_a_pushed_model_and_processor_load_back_bit_for_bit(pushed):
    hub, results, _ = pushed
    assert results["same weights"] and results["same inputs"]
    assert hub.files("me/parts").keys() >= LOADABLE
    assert [commit.message for commit in hub.commits("me/parts")][1:3] == ["Upload PsalmForSegmentation", "Upload processor"]


def test_a_revision_is_a_branch_beside_the_main_one(pushed):
    hub, results, _ = pushed
    assert results["same weights of main and v2"] == [False, True]
    assert hub.repositories["me/parts"].branches.keys() == {"main", "v2"}


def test_a_private_repository_is_closed_to_others(pushed):
    hub, results, _ = pushed
    assert hub.repositories["me/parts"].private and not hub.repositories["me/run"].private
    assert "me/parts" in results["private"] and "not a valid model identifier" in results["private"]


def test_a_wrong_token_is_an_error_that_says_so_before_anything_is_trained(pushed):
    hub, results, _ = pushed
    for case in ("wrong token", "wrong token of a run"):
        assert "401" in results[case] and "Invalid credentials in Authorization header" in results[case]
    assert hub.repositories.keys() == {"me/parts", "me/run"}


def test_a_card_that_was_pushed_first_is_kept_by_pushing_the_model(pushed):
    hub, _, _ = pushed
    assert [commit.message for commit in hub.commits("me/parts")][-1] == "again"
    assert b"# described" in hub.files("me/parts")["README.md"]


def test_a_run_ends_on_the_hub_with_everything_that_it_takes_to_load_it(pushed):
    hub, results, folder = pushed
    files = hub.files("me/run")
    assert files.keys() >= LOADABLE and results["same weights after training"]
    state, _ = torch.load(folder / "remote.pt")
    sent = load(files["model.safetensors"])
    assert state.keys() == sent.keys() and all(torch.equal(state[name], sent[name]) for name in sent)


def test_the_code_of_the_card_finds_the_same_with_and_without_psalm_hf(pushed):
    _, _, folder = pushed
    masks = torch.load(folder / "masks.pt")
    assert masks.shape == (60, 90) and torch.equal(torch.load(folder / "remote.pt")[1], masks)


def test_the_card_of_the_run_arrives_with_its_numbers(pushed):
    hub, _, _ = pushed
    card = hub.files("me/run")["README.md"].decode()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "mit" and header["model-index"][0]["name"] == "run"
    assert [metric["value"] for metric in header["model-index"][0]["results"][0]["metrics"]] == [40.0]
    assert "| referring cIoU, all | 40 |" in card and "Optimizer steps: 2" in card and 'from_pretrained("me/run")' in card


def modules(files):
    return {path for path in files if path.endswith(".py") and "/" not in path}


def test_what_is_pushed_during_training_is_whole(pushed):
    hub, _, _ = pushed
    first = next(commit for commit in hub.commits("me/run") if commit.message == "Training in progress, step 1")
    assert first.files.keys() >= LOADABLE
    assert modules(first.files) == modules(hub.files("me/run"))  # from which the second client has loaded
    assert b"Optimizer steps: 1" in first.files["README.md"]  # the push runs in the background; the next one waits for it


def test_a_run_goes_on_from_its_last_checkpoint_on_the_hub(pushed, tmp_path):
    hub, _, _ = pushed
    first = next(commit for commit in hub.commits("me/run") if commit.message == "Training in progress, step 1, checkpoint")
    folder = tmp_path / "last-checkpoint"
    folder.mkdir()
    for path, content in first.files.items():
        if path.startswith("last-checkpoint/"):
            (tmp_path / path).write_bytes(content)
    run = trainer(tmp_path / "resumed", max_steps=2)
    run.train(resume_from_checkpoint=str(folder))
    state = run.model.state_dict()
    assert run.state.global_step == 2
    for name, expected in load(hub.files("me/run")["model.safetensors"]).items():
        # not bit for bit: the other process may use another number of threads
        torch.testing.assert_close(state[name], expected, rtol=1e-3, atol=1e-4)
    assert "last-checkpoint/trainer_state.json" in hub.files("me/run")


def test_the_token_is_in_no_file(pushed):
    hub, _, _ = pushed
    commits = [commit for repo in hub.repositories for commit in hub.commits(repo)]
    assert {path for commit in commits for path, content in commit.files.items() if hub.token.encode() in content} == set()


def test_the_server_is_loud_about_what_it_does_not_know():
    with HubServer() as hub:
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(f"{hub.url}/api/datasets/me/none")
        assert hub.unknown == ["GET /api/datasets/me/none: NotImplementedError()"]


def told_places(pushed):
    """(commit, path, text) of every uploaded file that names a folder of the machine that pushed."""
    hub, _, folder = pushed
    private = [str(folder), str(ROOT), str(Path.home())]
    for repo in hub.repositories:
        for branch in hub.repositories[repo].branches.values():
            for commit in branch:
                for path, content in commit.files.items():
                    for place in private:
                        if place.encode() in content or json.dumps(place)[1:-1].encode() in content:
                            yield repo, path, place


def test_only_the_files_that_the_page_names_tell_folders_of_the_machine(pushed):
    """docs/hub.md says which: the log of a checkpoint, which names the best one."""
    told = {(repo, path.rpartition("/")[2]) for repo, path, _ in told_places(pushed)}
    assert told <= {("me/run", "trainer_state.json")}, told


def test_files_outside_of_the_folder_are_not_sent(pushed):
    hub, _, folder = pushed
    inside = {path.relative_to(folder / "run").as_posix() for path in (folder / "run").rglob("*") if path.is_file()}
    sent = {path for commit in hub.commits("me/run") for path in commit.files}
    unknown = {path for path in sent if path not in inside and not path.startswith("last-checkpoint/")} - {".gitattributes"}
    assert unknown == set()
