"""Weights of other origins in our names: original PSALM folders, Mask2Former (detectron2 or transformers).

Original names and quirks: released checkpoint of github.com/zamling/PSALM (config.json says `model_type: llava_phi`).
"""

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AddedToken, GPT2Tokenizer, PreTrainedConfig, PreTrainedTokenizerFast

from .bounded_files import check_pickle, refuse_pipe
from .prompts import PAD_TOKEN, SEG_TOKEN

ORIGINAL_MODEL_TYPE = "llava_phi"
END_OF_TEXT = 50256  # of the GPT-2 vocabulary; the original config.json carries LLaVA's default ids instead
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
JSON_FILES = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "adapter_config.json",
)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

SAFETENSORS_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

Renames = Sequence[tuple[str, str | Callable[[re.Match], str]]]  # (pattern, replacement), first match wins

HEADS = {"mask_embed": "mask", "CLASS_proj": "category", "SEG_proj": "sentence", "REGION_proj": "region"}
BLOCK = r"^model\.vision_tower\.(layers\.\d+\.blocks\.\d+)\."
# Every pattern is anchored and none matches a name of ours.
ORIGINAL_NAMES: Renames = [
    (r"^model\.vision_tower\.norm(\d)\.", lambda match: f"model.vision_tower.hidden_states_norms.stage{int(match[1]) + 1}."),
    (r"^model\.vision_tower\.patch_embed\.proj\.", "model.vision_tower.swin.embeddings.patch_embeddings.projection."),
    (r"^model\.vision_tower\.patch_embed\.norm\.", "model.vision_tower.swin.embeddings.norm."),
    (BLOCK + r"norm1\.", r"model.vision_tower.swin.encoder.\1.layernorm_before."),
    (BLOCK + r"norm2\.", r"model.vision_tower.swin.encoder.\1.layernorm_after."),
    (BLOCK + r"attn\.(relative_position_bias)_table$", r"model.vision_tower.swin.encoder.\1.attention.\2.\2_table"),
    (BLOCK + r"attn\.proj\.", r"model.vision_tower.swin.encoder.\1.attention.o_proj."),
    (BLOCK + r"attn\.qkv\.", r"model.vision_tower.swin.encoder.\1.attention.qkv."),
    (r"^model\.vision_tower\.(layers\.\d+\.(?:blocks\.\d+\.mlp|downsample)\.)", r"model.vision_tower.swin.encoder.\1"),
    (r"^model\.mm_projector\.layer1\.0\.conv([12])\.", r"model.projector.reduce.conv\1."),
    (r"^model\.mm_projector\.layer1\.0\.bn([12])\.", r"model.projector.reduce.norm\1."),
    (r"^model\.mm_projector\.layer1\.0\.downsample\.0\.", "model.projector.reduce.shortcut."),
    (r"^model\.mm_projector\.layer1\.0\.downsample\.1\.", "model.projector.reduce.shortcut_norm."),
    (r"^model\.mm_projector\.fc\.", "model.projector.linear."),
    (r"^model\.(embed_tokens|layers|final_layernorm)\.", r"model.language_model.\1."),
    (r"^seg_query$", "model.mask_queries.weight"),
    (r"^seg_query_projector\.", "model.query_projection."),
    (r"^class_name_projector\.", "model.category_projection."),
    (r"^SEG_token_projector\.", "model.sentence_projection."),
    (r"^region_projector\.", "model.region_projection."),
    (r"^pixel_decoder\.input_proj\.", "model.pixel_decoder.input_projections."),
    (r"^pixel_decoder\.transformer\.level_embed$", "model.pixel_decoder.level_embed"),
    (r"^pixel_decoder\.transformer\.encoder\.(layers\.\d+)\.norm1\.", r"model.pixel_decoder.\1.self_attn_layer_norm."),
    (r"^pixel_decoder\.transformer\.encoder\.(layers\.\d+)\.norm2\.", r"model.pixel_decoder.\1.final_layer_norm."),
    (r"^pixel_decoder\.transformer\.encoder\.(layers\.\d+)\.linear([12])\.", r"model.pixel_decoder.\1.fc\2."),
    (r"^pixel_decoder\.transformer\.encoder\.(layers\.\d+\.self_attn\.)", r"model.pixel_decoder.\1"),
    (r"^pixel_decoder\.mask_features\.", "model.pixel_decoder.mask_projection."),
    (r"^pixel_decoder\.adapter_1\.", "model.pixel_decoder.lateral."),
    (r"^pixel_decoder\.layer_1\.", "model.pixel_decoder.output."),
    (r"^predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.(?:self|multihead)_attn\.", r"mask_decoder.layers.\2.\1_attention."),
    (r"^predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.norm\.", r"mask_decoder.layers.\2.\1_attention_norm."),
    (r"^predictor\.transformer_ffn_layers\.(\d+)\.linear([12])\.", r"mask_decoder.layers.\1.fc\2."),
    (r"^predictor\.transformer_ffn_layers\.(\d+)\.norm\.", r"mask_decoder.layers.\1.ffn_norm."),
    (r"^predictor\.decoder_norm\.", "mask_decoder.norm."),
    (r"^predictor\.query_embed\.", "mask_decoder.query_positions."),
    (r"^predictor\.level_embed\.", "mask_decoder.level_embed."),
    # The original MLP numbers its linear layers 0, 1, 2; ours is a Sequential with activations between.
    (rf"^predictor\.({'|'.join(HEADS)})\.layers\.(\d)\.", lambda match: f"mask_decoder.{HEADS[match[1]]}_head.{2 * int(match[2])}."),
]
# In the released file but read by no forward pass.
UNUSED_NAMES = re.compile(r"^predictor\.(query_feat|SEG_query_embed)\.weight$|\.attn\.relative_position_index$")


# ---------------------------------------------------------------------------------------------------------------- reading


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, memory-mapped where the format allows; `.bin` files are read weights-only.

    Raises:
        ValueError: no weights file, a shard is missing, or a file cannot be read.
    """
    return {name: tensor for file in weight_files(folder) for name, tensor in read_weights_file(file).items()}


def weight_files(folder: str | Path) -> list[Path]:
    """Files of weights of a checkpoint folder. Raises ValueError if there is none."""
    folder = Path(folder)
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}")
    if found.suffix == ".json":
        return [_inside(folder, name, found) for name in sorted(_shard_names(found))]
    return [_inside(folder, found.name, found)]


def _shard_names(index: Path) -> set[str]:
    """Names of the files that an index of shards lists."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise ValueError(f"{index}: expected 'weight_map', an object of names of weights and of files; download it again")
    for weight, name in names.items():
        if not isinstance(name, str) or not name.endswith((".safetensors", ".bin")):
            raise ValueError(f"{index}: {weight} is in {name!r:.80}, expected the name of a .safetensors or .bin file")
    return set(names.values())


def _inside(folder: Path, name: str, asking: Path) -> Path:
    """Path of a file of a folder that strangers may have made. Neither its name nor a link may lead elsewhere, but for the Hub's cache."""
    path, root = folder / name, folder.resolve()
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if "\0" in name or Path(name).name != name or not any(path.resolve().is_relative_to(each.resolve()) for each in roots):
        raise ValueError(f"{asking}: {name!r:.80} lies outside of its folder; weights are read from there alone, so put the file into it")
    return path


def read_json_object(file: str | Path) -> dict[str, Any]:
    """Content of a JSON file of a checkpoint.

    Raises:
        ValueError: no such file, no JSON in UTF-8, or no object.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is no JSON that can be read ({error}); download the checkpoint again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {content!r:.80}")
    return content


def check_weights(folder: str | Path) -> None:
    """Checks the weights of a folder before another library opens them: the headers of safetensors, and `.bin` files whole (mapped).

    Raises:
        ValueError: a file is missing, lies outside of the folder, is damaged, or holds more than tensors.
    """
    folder = Path(folder)
    files = [_inside(folder, name, folder / name) for name in ADAPTER_FILES if (folder / name).is_file()]
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        files += weight_files(folder)
    for file in files:
        if file.suffix == ".safetensors":
            with opened_safetensors(file):
                pass
        else:
            read_weights_file(file)


@contextmanager
def opened_safetensors(file: Path) -> Iterator[Any]:
    """Opened `.safetensors` file. Errors inside are ValueErrors that name it."""
    if not file.is_file():
        raise ValueError(f"{file}: file is missing; download the checkpoint again")
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: damaged safetensors file ({error}); download it again") from error


def slices_to_convert(files: Sequence[str | Path], dtype: torch.dtype | None) -> dict[str, Any] | None:
    """Slices of all tensors of safetensors files, to be read one by one; None if no tensor has another type than `dtype`, or no files.

    Mapped, as transformers reads them, the pages of a file stay in memory beside the converted weights until the last one is converted.
    """
    if dtype is None or not files or not all(str(file).endswith(".safetensors") for file in files):
        return None
    slices = {}
    for file in files:
        handle = safe_open(file, framework="pt", backend="pread")
        slices |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (safe_open is no dict)
    is_converted = any(SAFETENSORS_TYPES.get(x.get_dtype(), dtype) != dtype for x in slices.values())
    return slices if is_converted else None


def read_shapes(folder: str | Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of all tensors of a checkpoint folder by name; None if the folder holds no weights."""
    if not any((Path(folder) / name).is_file() for name in WEIGHT_FILES):
        return None
    return {name: tuple(tensor.shape) for name, tensor in read_weights(folder).items()}


def read_weights_file(file: str | Path) -> dict[str, Tensor]:
    """Tensors of one `.safetensors` or `.bin` file. Raises ValueError if it is missing, broken, or holds more than tensors."""
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"{file}: file is missing; download the checkpoint again")
    if file.suffix == ".safetensors":
        with opened_safetensors(file) as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (safe_open is no dict)
    try:
        # Only the zip format, torch's default since 1.6, can be mapped instead of copied.
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # damaged bytes fail in many ways in torch's readers, and nothing but reading happens here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: cannot be read as plain tensors ({reason}); the file is damaged or holds executable objects") from error
    if not isinstance(weights, dict):
        raise ValueError(f"{file}: expected names and tensors, got {type(weights).__name__}")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ValueError(f"{file}: {name!r:.80} is {type(tensor).__name__}, expected names and plain tensors; download it again")
    return dict(weights)


def _is_plain(tensor: Any) -> bool:
    """True for a tensor whose values are all in the file; others, sparse or spread over one value, may be far larger than it."""
    is_dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    return is_dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


class _ArrayType:
    """Stands for `numpy.dtype` in a pickle: the name of a numeric type."""

    def __init__(self, name: str = "", *_: Any):
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?[fiub][1248]", name):
            raise ValueError(f"the pickle holds an array of type {name!r:.40}; weights are plain numbers")
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):  # order of bytes
            self.name = state[1] + self.name.lstrip("<>=|")

    def read(self, content: Any, shape: Any, is_fortran: bool) -> np.ndarray:
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
            raise ValueError("the pickle holds an array without bytes or shape")
        return np.frombuffer(content, dtype=self.name).reshape(shape, order="F" if is_fortran else "C")


class _Array:
    """Stands for `numpy.ndarray` in a pickle: numpy believes sizes and types that a stranger wrote."""

    def __init__(self, *_: Any):
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _ArrayType):
            raise ValueError("the pickle holds an array in an unknown form")
        self.values = state[2].read(state[4], state[1], bool(state[3]))


def _array_from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _number_from_bytes(kind: Any, content: Any = b"") -> Any:
    if not isinstance(kind, _ArrayType):
        raise ValueError("the pickle holds a number in an unknown form")
    return kind.read(content, (), False).item()


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers and numpy arrays of numbers; anything else, which could run code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return _Array if name == "_reconstruct" else _number_from_bytes
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":  # arrays in protocol 5
            return _array_from_buffer
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return _Array if name == "ndarray" else _ArrayType
        if (module, name) == ("__builtin__", "bytes"):  # protocol 2 spells the bytes of an empty array so
            return lambda: b""
        if (module, name) == ("_codecs", "encode"):
            # How protocol 2 spells the bytes of an array; the codec is fixed, since others could decompress or import.
            return lambda text, encoding: text.encode("latin1")
        raise ValueError(f"the pickle asks for {module}.{name}; a weights file needs arrays only, so it is refused")


def read_detectron2_pickle(file: str | Path) -> dict[str, Tensor]:
    """The `model` dictionary of a detectron2 `.pkl`, read by an unpickler that admits arrays of numbers and nothing else.

    Raises:
        ValueError: no such file, a damaged one, or one that holds or asks for anything else; the message names it.
    """
    try:
        refuse_pipe(file)
        with open(file, "rb") as handle:
            check_pickle(handle)
            content = ArrayUnpickler(handle, encoding="latin1").load()
    except Exception as error:  # a damaged pickle fails in many ways, and nothing but reading happens here
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file}: not a readable pickle of arrays ({reason}); download it again") from error
    weights = content.get("model") if isinstance(content, dict) else None
    wrong = [name for name in weights if not _is_named_array(name, weights[name])] if isinstance(weights, dict) else [content]
    if wrong:
        raise ValueError(f"{file}: expected a dictionary with 'model': names -> arrays, as detectron2 writes it; {wrong[0]!r:.80} is none")
    arrays = {name: array.values for name, array in weights.items()}
    if sum(values.nbytes for values in arrays.values()) > 2 * Path(file).stat().st_size:
        raise ValueError(f"{file}: its arrays are larger than the file, so they repeat each other; download it again")
    # In the machine's order of bytes, which torch demands.
    return {name: torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C")) for name, values in arrays.items()}


def _is_named_array(name: Any, array: Any) -> bool:
    return isinstance(name, str) and isinstance(array, _Array) and array.values is not None


# --------------------------------------------------------------------------------------------------- names and original folders


def locate_checkpoint(name: Any) -> Any:
    """The folder of a checkpoint that ships with psalm_hf, by its name; any other name, and where psalm_hf is not installed, as it is.

    Raises:
        FileNotFoundError: see `psalm_hf.checkpoints.resolve_checkpoint`.
    """
    if name is None or "/" in str(name) or Path(name).exists() or find_spec("psalm_hf") is None:
        return name
    return import_module("psalm_hf.checkpoints").resolve_checkpoint(name)


def locate_original_folder(name_or_path: Any, options: Mapping[str, Any], patterns: list[str]) -> Path | None:
    """The local folder of an original PSALM checkpoint, or None for any other checkpoint.

    Args:
        name_or_path: folder or Hub id.
        options: keywords of `from_pretrained`; those about the Hub are used.
        patterns: files to download if it is a Hub id.
    """
    names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
    hub = {name: options[name] for name in names if name in options}
    fields, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub)
    if fields.get("model_type") != ORIGINAL_MODEL_TYPE:
        return None
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    return Path(snapshot_download(str(name_or_path), allow_patterns=patterns, **hub))


@contextmanager
def reading(problem: str, advice: str = "download it again") -> Iterator[None]:
    """Turns an error inside into a ValueError of one line: the problem, its reason, what to do. (Wrong files fail in many ways.)"""
    kinds = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, ImportError, AssertionError)
    try:
        yield
    except kinds as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{problem} ({_printable(reason)}); {advice}") from error


def _printable(text: str) -> str:
    """A text with `\\ud800` for halves of characters, which JSON may hold and no terminal prints."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def naming(folder: Any) -> Iterator[None]:
    """Checks the JSON files of a local folder before a library reads them. An error inside that does not name the folder, or is neither a
    ValueError nor an OSError, becomes a ValueError that does. Hub ids and everything else than folders are left alone."""
    if folder is None or not Path(folder).is_dir():
        yield
        return
    for name in JSON_FILES:
        if Path(folder, name).is_file():
            read_json_object(Path(folder, name))
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, NotImplementedError, ImportError):
        raise
    except Exception as error:  # libraries fail in many ways on what they do not expect; tokenizers raises nothing but Exception
        if isinstance(error, ValueError | OSError) and str(folder) in str(error) and _printable(str(error)) == str(error):
            raise
        reason = _printable(" ".join(str(error).split())) or type(error).__name__
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{folder}: cannot be loaded ({reason})") from error


def load_original_checkpoint(
    folder: Path, dtype: torch.dtype | None = None, in_float32: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields of our configuration and weights in our names, from an original PSALM folder.

    Raises:
        ValueError: weights or a config.json that are no original PSALM's; the message names folder or file.

    Args:
        dtype: weights of another type are converted as they are read, file by file, so that nothing of a file stays in memory.
            None: weights as stored, memory-mapped where the format allows.
        in_float32: modules whose weights are float32 where `dtype` is half precision.
    """
    fields = read_json_object(folder / "config.json")
    with reading(f"{folder}: is no original PSALM checkpoint"):
        config = original_config_fields(fields, read_shapes(folder))
        weights: dict[str, Tensor] = {}
        for file in weight_files(folder):
            for name, tensor in _read_one_by_one(file, dtype):
                for ours, part in convert_original_weights({name: tensor}, fields["num_attention_heads"]).items():
                    is_kept = dtype in (torch.float16, torch.bfloat16) and not set(in_float32).isdisjoint(ours.split("."))
                    weights[ours] = part.to(torch.float32 if is_kept else dtype) if part.is_floating_point() else part
        return config, weights


def _read_one_by_one(file: Path, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file. If some of them will be converted to `dtype`, none needs the file any more."""
    slices = slices_to_convert([file], dtype)
    if slices is not None:
        yield from ((name, stored[...]) for name, stored in slices.items())
        return
    weights = read_weights_file(file)
    is_converted = dtype is not None and any(x.is_floating_point() and x.dtype != dtype for x in weights.values())
    while weights:
        name, tensor = weights.popitem()
        yield name, tensor.clone() if is_converted else tensor


def convert_original_weights(weights: Mapping[str, Tensor], num_text_heads: int) -> dict[str, Tensor]:
    """Rename and split original tensors. Names that are already ours, and unknown ones, pass unchanged."""
    converted: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not UNUSED_NAMES.search(name):
            converted |= split_fused(convert_original_name(name), tensor, num_text_heads)
    return converted


def convert_original_name(name: str) -> str:
    """Our name of an original tensor; fused projections keep one name until `split_fused`."""
    return _rename(name, ORIGINAL_NAMES)


def split_fused(name: str, tensor: Tensor, num_text_heads: int) -> dict[str, Tensor]:
    """Separate query, key and value projections of a fused tensor; another tensor comes back as it is.

    Swin and the mask decoder stack [q; k; v]. Phi of transformers 4.36 groups PER HEAD: row = head * 3 * size + part * size + d.
    """
    parts = ("q_proj", "k_proj", "v_proj")
    if ".query_key_value." in name:
        per_head = tensor.unflatten(0, (num_text_heads, 3, -1))  # (heads, 3, head size, ...)
        return {name.replace("query_key_value", part): per_head[:, index].flatten(0, 1).contiguous() for index, part in enumerate(parts)}
    match = re.search(r"attention\.(qkv\.|in_proj_)(weight|bias)$", name)
    if match is None:
        return {name: tensor}
    chunks = tensor.chunk(3)
    return {name.replace(match[1], f"{part}."): chunk.contiguous() for part, chunk in zip(parts, chunks, strict=True)}


def original_config_fields(fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> dict[str, Any]:
    """Our configuration fields of an original config.json.

    Args:
        fields: its content. `image_size` is ours; the original file does not say it and means 1024.
        shapes: shapes of the weights by original name. The original config.json does not give the sizes of Swin, projector and
            mask decoder; they are read off the weights, or are the released ones where no weights are at hand.
    """
    text_names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "max_position_embeddings",
        "initializer_range", "layer_norm_eps", "qk_layernorm", "resid_pdrop", "embd_pdrop", "attention_dropout", "vocab_size",
    )  # fmt: skip
    text = {"model_type": "phi"} | {name: fields[name] for name in text_names if name in fields}
    if shapes is not None and "model.embed_tokens.weight" in shapes:
        text["vocab_size"] = shapes["model.embed_tokens.weight"][0]
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": fields.get("rope_theta", 10000.0),
        "partial_rotary_factor": fields.get("partial_rotary_factor", 0.5),
    }
    vocab_size = text.get("vocab_size", 50297)
    end = END_OF_TEXT if vocab_size > END_OF_TEXT else fields.get("eos_token_id")
    text |= {"bos_token_id": end, "eos_token_id": end, "pad_token_id": vocab_size - 2}  # [PAD] is the last but one, [SEG] the last
    image_size = fields.get("image_size", 1024)
    ours: dict[str, Any] = {"text_config": text, "image_size": image_size, "architectures": ["PsalmForSegmentation"]}
    if shapes is None:
        return ours
    try:
        sizes = mask2former_sizes(shapes, image_size)
        width, queries = shapes["model.mm_projector.layer1.0.conv1.weight"], shapes["seg_query"]
    except KeyError as error:
        raise ValueError(f"original checkpoint without {error}; expected the complete weights of a released PSALM folder") from error
    return ours | sizes | {"projector_width": width[0], "num_queries": queries[0]}


def mask2former_sizes(shapes: Mapping[str, tuple[int, ...]], image_size: int) -> dict[str, Any]:
    """Configuration fields of Swin, pixel decoder and mask decoder, read off the shapes of their weights by original name.

    Raises:
        KeyError: a weight that tells a size is absent.
    """
    tower = "model.vision_tower."
    depths = [
        _count(shapes, rf"^{re.escape(tower)}layers\.{stage}\.blocks\.(\d+)\.")
        for stage in range(_count(shapes, tower + r"layers\.(\d+)\."))
    ]
    tables = [shapes[f"{tower}layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in range(len(depths))]
    embed_dim = shapes[f"{tower}patch_embed.proj.weight"][0]
    vision = {
        "model_type": "swin",
        "image_size": image_size,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": [heads for _, heads in tables],
        "window_size": (int(round(tables[0][0] ** 0.5)) + 1) // 2,
        "mlp_ratio": shapes[f"{tower}layers.0.blocks.0.mlp.fc1.weight"][0] / embed_dim,
        "drop_path_rate": 0.3,
    }
    encoder = "pixel_decoder.transformer.encoder.layers."
    return {
        "vision_config": vision,
        "hidden_dim": shapes["pixel_decoder.mask_features.weight"][0],
        "num_heads": shapes[f"{encoder}0.self_attn.attention_weights.weight"][0] // 12,  # 3 levels x 4 points per head
        "encoder_layers": _count(shapes, re.escape(encoder) + r"(\d+)\."),
        "encoder_ffn_dim": shapes[f"{encoder}0.linear1.weight"][0],
        "decoder_layers": _count(shapes, r"^predictor\.transformer_ffn_layers\.(\d+)\."),
        "decoder_ffn_dim": shapes["predictor.transformer_ffn_layers.0.linear1.weight"][0],
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """Number of different numbers that the pattern's group takes."""
    return len({match[1] for match in map(re.compile(pattern).search, names) if match})


def tokenizer_from_original_folder(folder: str | Path) -> PreTrainedTokenizerFast:
    """Tokenizer of a released folder: GPT-2 BPE from vocab.json, merges.txt and added_tokens.json, or from tokenizer.json.

    Raises:
        ValueError: no tokenizer files, or a tokenizer without `[PAD]` and `[SEG]`.
    """
    folder = Path(folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        # Not splitlines(): merges contain other line separators.
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        tokenizer = GPT2Tokenizer(vocab=json.loads((folder / "vocab.json").read_text(encoding="utf-8")), merges=merges)
        if (folder / "added_tokens.json").is_file():
            added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
            # Ids are given in the order of adding. Runs of blanks are matched in the raw text, not after normalisation.
            tokenizer.add_tokens([AddedToken(text, normalized=False) for text in sorted(added, key=added.get)])
    elif (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = "<|endoftext|>"
    else:
        raise ValueError(f"{folder}: no tokenizer; expected vocab.json and merges.txt (with added_tokens.json), or tokenizer.json")
    missing = [token for token in (PAD_TOKEN, SEG_TOKEN) if token not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(f"{folder}: the tokenizer lacks {' and '.join(missing)}; is added_tokens.json missing?")
    tokenizer.pad_token = PAD_TOKEN
    return tokenizer


# ---------------------------------------------------------------------------------------------------------------- Mask2Former


def detectron2_as_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a detectron2 Mask2Former checkpoint -> those of an original PSALM folder.

    Its class head, query contents and criterion buffers are left out. Its lateral and output convolutions have no bias.
    """
    renames = (
        (r"^backbone\.", "model.vision_tower."),
        (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.norm\.", r"pixel_decoder.\1.1."),
        (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.weight$", r"pixel_decoder.\1.0.weight"),
        (r"^sem_seg_head\.pixel_decoder\.", "pixel_decoder."),
        (r"^sem_seg_head\.predictor\.", "predictor."),
    )
    left_out = re.compile(r"^(sem_seg_head\.predictor\.(class_embed|static_query)\.|criterion\.)")
    return {_rename(name, renames): tensor for name, tensor in weights.items() if not left_out.match(name)}


def convert_mask2former(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `Mask2FormerForUniversalSegmentation` of transformers -> our names; what `detectron2_as_original` leaves out is too."""
    decoder = r"^model\.transformer_module\.decoder\."
    renames = (
        (r"^model\.pixel_level_module\.encoder\.", "model.vision_tower."),
        (r"^model\.pixel_level_module\.decoder\.encoder\.layers\.", "model.pixel_decoder.layers."),
        (r"^model\.pixel_level_module\.decoder\.adapter_1\.", "model.pixel_decoder.lateral."),
        (r"^model\.pixel_level_module\.decoder\.layer_1\.", "model.pixel_decoder.output."),
        (r"^model\.pixel_level_module\.decoder\.", "model.pixel_decoder."),
        (r"^model\.transformer_module\.queries_embedder\.", "mask_decoder.query_positions."),
        (r"^model\.transformer_module\.level_embed\.", "mask_decoder.level_embed."),
        (decoder + r"layernorm\.", "mask_decoder.norm."),
        (decoder + r"(layers\.\d+\.(?:self|cross)_att)n\.", r"mask_decoder.\1ention."),
        (decoder + r"(layers\.\d+\.(?:self|cross)_att)n_layer_norm\.", r"mask_decoder.\1ention_norm."),
        (decoder + r"(layers\.\d+)\.final_layer_norm\.", r"mask_decoder.\1.ffn_norm."),
        (decoder + r"(layers\.\d+\.fc[12])\.", r"mask_decoder.\1."),
        (decoder + r"mask_predictor\.mask_embedder\.(\d)\.0\.", lambda match: f"mask_decoder.mask_head.{2 * int(match[1])}."),
    )
    left_out = re.compile(r"^(class_predictor|criterion|model\.transformer_module\.queries_features)\.|\.swin\.layernorm\.")
    converted: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not left_out.search(name):
            converted |= split_fused(_rename(name, renames), tensor, num_text_heads=1)
    return converted


def _rename(name: str, renames: Renames) -> str:
    """The first (pattern, replacement) that matches decides; a name that none matches stays."""
    for pattern, replacement in renames:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name
