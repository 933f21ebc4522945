"""Packs a trained checkpoint to be shipped: float16 weights that load in float32, the processor, a model card, and nothing else.

    python examples/pack_checkpoint.py --checkpoint DIR --results TEST/results.json UNSEEN/results.json --output FOLDER

--results are files that `psalm evaluate --benchmark shapes` wrote, one per split, after `psalm calibrate` had written thresholds of
expressions into the processor. In the card, $parameters (millions), $megabytes (of the weights), $results (a table), $images, $no_target
and $further_targets (of the measurement) are filled in.

`save_pretrained` also copies the modules of the model, for machines without psalm_hf. What is packed here is loaded by psalm_hf, and needs
none.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any

CARD = Path(__file__).parent / "cards" / "psalm_tiny.md"
# Numbers of an evaluation that the card shows: name there -> name here.
REPORTED = {
    "panoptic PQ, thresholds 0.5": "panoptic PQ",
    "panoptic PQ-things, thresholds 0.5": "panoptic PQ, things",
    "panoptic PQ-stuff, thresholds 0.5": "panoptic PQ, stuff",
    "semantic mIoU": "semantic mIoU",
    "instance AP": "instance AP",
    "referring cIoU, target given": "referring cIoU, expressions with a target",
    "referring cIoU, attribute, target given": "of these, attributes",
    "referring cIoU, superlative, target given": "superlatives",
    "referring cIoU, ordinal, target given": "ordinals",
    "referring cIoU, relation, target given": "relations",
    "referring gIoU": "referring gIoU, all expressions",
    "referring N-acc": "expressions without a target that were recognised (N-acc)",
    "referring T-acc": "expressions with a target that were recognised (T-acc)",
    "region mIoU, point": "region mIoU, point",
    "region mIoU, scribble": "region mIoU, scribble",
    "region mIoU, box": "region mIoU, box",
    "region mIoU, mask": "region mIoU, mask",
    "text accuracy": "answers right",
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder written by save_pretrained")
    parser.add_argument("--results", required=True, type=Path, nargs="+", help="results.json of psalm evaluate --benchmark shapes")
    parser.add_argument("--card", type=Path, default=CARD, help="model card to fill in (default: examples/cards/psalm_tiny.md)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it holds something")
    return parser.parse_args(arguments)


def pack(options: argparse.Namespace) -> None:
    """Writes beside the output and renames at the end: a folder that exists is complete, and another one is removed only after that."""
    output = options.output
    if output.exists() and not options.overwrite and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not an empty folder; give another one or --overwrite")
    fields = card_fields({path: json.loads(path.read_text(encoding="utf-8")) for path in options.results})
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        fields["parameters"] = f"{save_halved(options.checkpoint, new) / 1e6:.1f}"
        fields["megabytes"] = f"{(new / 'model.safetensors').stat().st_size / 1e6:.1f}"
        (new / "README.md").write_text(Template(options.card.read_text(encoding="utf-8")).substitute(fields), encoding="utf-8")
        for file in new.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone
        if output.exists():
            os.rename(output, old)
        try:
            os.rename(new, output)
        except BaseException:
            if old.exists():
                os.rename(old, output)
            raise
    print(f"wrote {output}, weights {fields['megabytes']} MB", file=sys.stderr)


def save_halved(checkpoint: str, folder: Path) -> int:
    """Writes everything but the card, and returns the number of parameters."""
    from psalm_hf import PsalmForSegmentation, PsalmProcessor

    model = PsalmForSegmentation.from_pretrained(checkpoint, dtype="float32")
    # The model itself stays float32, and so says config.json.
    model.save_pretrained(folder, state_dict=half_state(model.state_dict()), max_shard_size="1TB")
    PsalmProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    drop_code(folder)
    return model.num_parameters()


def half_state(state: dict) -> dict:
    """Tensors with floats rounded to float16.

    Raises:
        ValueError: a value does not fit into float16.
    """
    rounded: dict[int, Any] = {}  # by address: tied weights stay one tensor, and are stored once
    for tensor in state.values():
        rounded.setdefault(tensor.data_ptr(), tensor.half() if tensor.is_floating_point() else tensor)
    half = {name: rounded[tensor.data_ptr()] for name, tensor in state.items()}
    broken = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{', '.join(broken)}: not finite in float16, whose largest number is 65504; such a checkpoint cannot be packed")
    return half


def drop_code(folder: Path) -> None:
    """Removes the copied modules and the `auto_map` entries that lead to them."""
    for module in folder.glob("*.py"):
        module.unlink()
    for file in folder.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        if '"auto_map"' in text:
            fields = json.loads(text, object_hook=lambda entry: {key: value for key, value in entry.items() if key != "auto_map"})
            file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card_fields(records: dict[Path, dict]) -> dict[str, str]:
    """Fields of the model card about the measurement, read from the files of psalm evaluate.

    Raises:
        ValueError: another file, or one without all numbers of the card; expressions that were not measured by calibrated thresholds.
    """
    for name, record in records.items():
        if record.get("benchmark") != "shapes" or record["protocol"].get("no_target") != "processor":
            raise ValueError(f"{name}: not of the benchmark shapes with calibrated thresholds; run psalm calibrate, then psalm evaluate")
        if missing := REPORTED.keys() - record["percent"].keys():
            raise ValueError(f"{name}: no {', '.join(sorted(missing))}; measure all parts with the present psalm evaluate")
    first = next(iter(records.values()))
    chosen = first["protocol"]
    return {
        "images": str(first["parts"]["panoptic"]["counts"]["pictures"]),
        "results": results_table(list(records.values())),
        "no_target": f"{chosen['no_target_threshold']:.2f}",
        "further_targets": f"{chosen['referring_threshold']:.2f}",
    }


def results_table(records: list[dict]) -> str:
    """Markdown table of the numbers of every split, each with that of a trivial answer in brackets where there is one."""
    lines = [f"| percent | {' | '.join(record['split'] for record in records)} |", f"| --- |{' --- |' * len(records)}"]
    for key, title in REPORTED.items():
        cells = [title]
        for record in records:
            baseline = record["baselines"].get(key)
            cells.append(f"{record['percent'][key]:.1f}" + ("" if baseline is None else f" ({baseline:.1f})"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)

    from psalm_hf.cli.command import verb

    return verb(pack)(options)


if __name__ == "__main__":
    sys.exit(main())
