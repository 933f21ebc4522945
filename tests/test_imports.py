"""Which way imports go, and what is not loaded until it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import psalm_hf
from psalm_hf.cli.main import VERBS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "psalm_hf"
# Programs of their own; the others are another way to call a verb of the command.
SCRIPTS = [path for path in sorted(ROOT.glob("examples/*.py")) if "psalm_hf.cli" not in path.read_text(encoding="utf-8")]

# Layer -> the layers of the package that it may import, besides itself. A module that is not listed here fails the test below, so
# that whoever adds one decides where it belongs.
ALLOWED = {
    "structures": set(),
    "writing": set(),
    "locking": {"writing"},
    # A folder that travels with a checkpoint has the checks of masks with it, so they stand in the model.
    "masks": {"model"},
    "data": {"bounded_files", "checked_yaml", "masks", "spelling", "structures", "visualization", "writing"},
    "metrics": {"masks", "structures"},
    "model": set(),
    "bounded_files": {"model"},
    "visualization": {"bounded_files", "chips", "masks", "model", "structures"},
    "video": {"masks", "model", "structures", "writing"},
    "chips": set(),
    "devices": set(),
    "tiny": {"devices", "model"},
    "spelling": set(),
    "checked_yaml": set(),
    "checkpoints": {"locking", "spelling", "writing"},
    "vocabulary": {"model", "structures"},
    "domain": set(),
    "result": {"bounded_files", "masks", "structures", "visualization", "writing"},
    "windows": {"masks"},
    "zoom": {"model", "result", "structures", "windows"},
    "tiling": {"model", "result", "structures", "windows"},
    "predictor": {"checkpoints", "devices", "domain", "model", "result", "structures", "tiling", "vocabulary", "zoom"},
    "pipeline": {"model", "checkpoints", "domain", "vocabulary"},
    "public": {"checkpoints", "model", "pipeline", "predictor", "result", "video"},
    "dialogue": {"model", "predictor", "visualization"},
    "following": {"masks", "data", "video", "visualization", "writing", "locking"},
    "training": {
        "structures",
        "masks",
        "data",
        "metrics",
        "model",
        "video",
        "spelling",
        "checked_yaml",
        "checkpoints",
        "public",
        "evaluation",
        "devices",
        "domain",
        "writing",
        "locking",
    },
    "evaluation": {
        "bounded_files",
        "data",
        "locking",
        "masks",
        "metrics",
        "model",
        "spelling",
        "structures",
        "video",
        "visualization",
        "vocabulary",
        "writing",
    },
    "scale": {"bounded_files", "checkpoints", "devices", "evaluation", "masks", "model", "predictor", "result", "tiling", "writing"},
    "__init__": {"public"},
    "app": {
        "bounded_files",
        "checkpoints",
        "data",
        "devices",
        "domain",
        "evaluation",
        "following",
        "locking",
        "masks",
        "metrics",
        "model",
        "predictor",
        "public",
        "result",
        "structures",
        "video",
        "visualization",
        "writing",
    },
    "cli": {
        "app",
        "spelling",
        "checked_yaml",
        "devices",
        "checkpoints",
        "structures",
        "masks",
        "data",
        "model",
        "video",
        "public",
        "predictor",
        "result",
        "visualization",
        "dialogue",
        "following",
        "training",
        "evaluation",
        "scale",
        "writing",
        "locking",
    },
}


def imported_modules(path):
    """Dotted names of everything a file imports, relative imports resolved; also inside of functions."""
    package = ["psalm_hf", *path.relative_to(PACKAGE).parts[:-1]] if path.is_relative_to(PACKAGE) else []
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names.add(base)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def layer(parts):
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_layers(path):
    own = layer(path.relative_to(PACKAGE).parts)
    assert own in ALLOWED, f"say in ALLOWED what {own} may import"
    known = {layer(other.relative_to(PACKAGE).parts) for other in PACKAGE.rglob("*.py")}
    for name in imported_modules(path):
        if name.startswith("psalm_hf."):
            target = name.split(".")[1]
            assert target == own or target not in known or target in ALLOWED[own], f"{path.relative_to(ROOT)} must not import {name}"


def test_the_model_folder_is_flat_and_imports_its_siblings_relatively():
    for path in PACKAGE.glob("model/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path.name} imports from outside of its folder"
                assert node.level == 1 or not node.module.startswith("psalm_hf"), f"{path.name} imports psalm_hf by name"
    assert not [path for path in PACKAGE.glob("model/*/") if path.name != "__pycache__"]


def test_only_the_page_and_its_tabs_import_gradio():
    """The others are tested, and can be used, where gradio is absent."""
    files = [path.name for path in PACKAGE.rglob("*.py") if "gradio" in imported_modules(path)]
    assert sorted(files) == [
        "app.py",
        "chat_tab.py",
        "image_tab.py",
        "label_tab.py",
        "page.py",
        "sentences.py",
        "training_tab.py",
        "video_tab.py",
    ]


def test_only_the_deployment_imports_ray_serve_and_only_the_interface_fastapi():
    """Requests, and how they share passes, are tested where both are absent; a replica's model is loaded in its own process."""
    for module, file in (("ray.serve", "deployment.py"), ("fastapi", "api.py")):
        files = [path.name for path in PACKAGE.glob("scale/*.py") if module in imported_modules(path)]
        assert files == [file]
    code = "import sys; sys.argv[0] = 'psalm'; import psalm_hf.cli.serve; print(*sorted({'ray', 'fastapi', 'torch'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == ""


def test_importing_the_package_loads_neither_datasets_nor_deepspeed_nor_pycocotools():
    code = "import sys, psalm_hf; print(*sorted({'datasets', 'deepspeed', 'pycocotools'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == ""


def test_structures_and_masks_load_without_torch():
    stub = "import sys, types; sys.modules['torch'] = None; package = types.ModuleType('psalm_hf'); package.__path__ = ['psalm_hf']"
    code = f"{stub}; sys.modules['psalm_hf'] = package; import psalm_hf.structures, psalm_hf.masks"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_of_a_program_is_answered_without_torch(script):
    code = "import runpy, sys; sys.modules['torch'] = None; script = sys.argv[1]; sys.argv[:] = [script, '--help']; " \
           "runpy.run_path(script, run_name='__main__')"  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code, str(script)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage:")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([verb, "--help"] for verb in VERBS),
        ["segmnt"],
        ["segment", "--taks", "semantic"],
    ],
)
def test_the_command_answers_help_and_mistakes_without_torch(words):
    code = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'psalm'; from psalm_hf.cli.main import main; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    if "--help" in words:
        assert result.returncode == 0 and result.stdout.startswith(f"usage: {' '.join(['psalm', *words[:-1]])} ")
    else:
        [line] = result.stderr.splitlines()
        assert (
            result.returncode == 2
            and line.startswith("error: psalm ")
            and line.endswith(f"did you mean {'--task' if words[1:] else 'segment'}?")
        )


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("/usr/bin/psalm", [], True),
        ("-m", ["python", "-m", "psalm_hf.cli.main", "train"], True),  # as it is while Python looks for the module
        ("-m", ["python", "-m", "own.module"], False),
        ("script.py", [], False),
        ("", [], False),
    ],
)
def test_only_the_command_registers_late(program, words, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", words)
    assert psalm_hf._is_command() == expected


def test_what_the_command_trains_is_registered():
    """A folder that was saved before that would lack its code; so what trains takes the classes from `public.py`."""
    code = (
        "import sys; sys.argv[0] = 'psalm'; import psalm_hf; early = 'torch' in sys.modules; import psalm_hf.training; "
        "from transformers import AutoConfig; from psalm_hf.model.modeling_psalm import PsalmForSegmentation; "
        "print(early, PsalmForSegmentation._auto_class, type(AutoConfig.for_model('psalm')).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "AutoModel", "PsalmConfig"]
