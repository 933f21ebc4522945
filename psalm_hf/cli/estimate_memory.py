"""Estimates what a training config needs on each GPU, before anything is started: parameters, and memory by engine.

    psalm estimate-memory --config stage2_paper --processes 16 [--length 1024 --batch-sizes '{...}']

Nothing is loaded and nothing runs: the model has shapes without content. Its sizes are those of the config's `checkpoint`, or, where that
folder does not exist yet, the released ones (Swin-B, Phi-1.5, 1024 x 1024). Fields of the config are overridden as in training.
"""

import argparse

from .command import CommandParser, verb


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and what overrides fields of the config."""
    parser = CommandParser("estimate-memory", __doc__, has_fields=True)
    parser.add_argument("--config", required=True, help="YAML file of stage 1 or 2, or the name of one that ships")
    parser.add_argument("--processes", type=int, default=16, help="GPUs of the run")
    parser.add_argument("--length", type=int, help="tokens of a row, default the positions of the language model")
    options, overrides = parser.parse_known_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes {options.processes}: give at least 1")
    return options, overrides


@verb
def main(arguments: list[str] | None = None) -> None:
    options, overrides = parse_arguments(arguments)

    from ..training.memory import estimate_memory

    print(estimate_memory(options.config, overrides, processes=options.processes, length=options.length))
