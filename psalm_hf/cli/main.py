"""Command `psalm`: finds the module of a verb and hands it the other arguments."""

import sys
from importlib import import_module

from ..spelling import did_you_mean

# Verb -> what it does. The module of a verb is called as it is, and has `main(arguments) -> exit status`.
VERBS = {
    "segment": "an image and a prompt -> an overlay and masks",
    "predict": "a folder of images and a prompt -> COCO results, in one process or many",
    "video": "follows objects through a folder of frames or a video file",
    "chat": "a dialogue about an image, in words and masks",
    "app": "a page in the browser: click, draw or say what to segment",
    "serve": "an HTTP service: images and prompts in, masks out, in batches",
    "evaluate": "a checkpoint on a benchmark -> numbers, submission files, drawings",
    "train": "a config -> a trained checkpoint: vision, stage 1 or stage 2",
    "prepare": "makes files that are derived from a dataset",
    "verify": "checks a dataset on disk, record by record, and draws rows",
    "convert": "an original PSALM checkpoint, or an adapter, -> a folder of this package",
    "calibrate": "finds the thresholds of expressions, and writes them into a processor",
    "estimate-memory": "what a training config needs on each GPU, before anything is started",
}


def main(arguments: list[str] | None = None) -> int:
    verb, *others = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: psalm VERB ...\n\nPSALM segments what a prompt asks for.\n")
        print("\n".join(f"  {name.ljust(width)}  {text}" for name, text in VERBS.items()))
        print("\nThe options of a verb: psalm VERB --help")
        return 0
    if verb not in VERBS:
        print(f"error: psalm has no verb {verb!r}, expected one of {', '.join(VERBS)}{did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2
    return import_module(f".{verb.replace('-', '_')}", __package__).main(others)


if __name__ == "__main__":
    sys.exit(main())
