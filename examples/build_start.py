"""Puts together the model that training starts from: a language model, a Mask2Former or a backbone, a projector.

    python examples/build_start.py --language-model microsoft/phi-1_5 --mask2former model_final_54b88a.pkl --output outputs/start

Each part is a folder or a Hub id, see docs/checkpoints.md. What no part gives starts at random. The output has model and processor; the
training configs name it as `checkpoint`. `--field value` sets a field of PsalmConfig (docs/model.md), values are read as YAML:
`--image_size 512 --num_queries 50`.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the fields of PsalmConfig."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--language-model", required=True, help="decoder-only language model with its tokenizer, such as Phi-1.5")
    vision = parser.add_mutually_exclusive_group()
    vision.add_argument("--mask2former", help="detectron2's .pkl, or a Mask2Former of transformers: vision tower and both decoders")
    vision.add_argument("--backbone", help="a vision tower alone; timm/NAME for one of timm")
    parser.add_argument("--projector", help="mm_projector.bin, or the folder of a stage 1")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist yet")
    parser.add_argument("--prompt-style", choices=("paper", "released"), default="paper", help="of the prompts (default: paper)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights (default: float32, for training)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what starts at random (default: 0)")
    return parser.parse_known_args(arguments)


def build(given: tuple[argparse.Namespace, list[str]]) -> None:
    import torch

    from psalm_hf import build_starting_point
    from psalm_hf.checkpoints.writing import check_absent, write_checkpoint
    from psalm_hf.training.configs import read_overrides

    options, pairs = given
    check_absent(options.output)
    torch.manual_seed(options.seed)
    model, processor = build_starting_point(
        options.language_model,
        mask2former=options.mask2former,
        backbone=options.backbone,
        projector=options.projector,
        prompt_style=options.prompt_style,
        dtype=options.dtype,
        **read_overrides(pairs),
    )
    write_checkpoint(options.output, model, processor)
    print(f"wrote {options.output}: {model.num_parameters():,} parameters", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    given = parse_arguments(arguments)

    from psalm_hf.cli.command import verb

    return verb(build)(given)


if __name__ == "__main__":
    sys.exit(main())
