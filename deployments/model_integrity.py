"""Tells a damaged model file from a whole one by a few kilobytes of it, so that a start need not read it all.

The formats end, or begin, with how long they are: zip archives have a directory at their end, safetensors
files begin with the offsets of their tensors, and the fields of a protobuf message say their lengths.
"""

import json
import zipfile
from pathlib import Path
from typing import BinaryIO

import yaml

_LFS_POINTER = b"version https://git-lfs"
_OLD_PICKLE = b"\x80\x02"
"""What files of ``torch.save`` before PyTorch 1.6 begin with. They do not say how long they are."""
_HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header; its readers refuse longer ones."""
_CUT = "it is cut off"


def damage(path: Path) -> str | None:
    """What is wrong with a file of a model, as the end of a sentence; ``None`` if nothing is found.

    What is looked at depends on the suffix; of a file of another kind, only that it is not empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            if not head:
                return "it is empty"
            if head.startswith(_LFS_POINTER):
                return "it is only a pointer of Git LFS, not the file itself"
            file.seek(0)
            match path.suffix:
                case ".pt" | ".bin" | ".pth":
                    return _checkpoint(file, head)
                case ".safetensors":
                    return _safetensors(file, path.stat().st_size)
                case ".onnx":
                    return _onnx(file, path.stat().st_size)
                case ".json":
                    json.load(file)
                case ".yaml" | ".yml":
                    yaml.compose(file, Loader=yaml.CSafeLoader)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, yaml.YAMLError, RecursionError):
        return f"it is not {path.suffix.lstrip('.').upper()}"
    return None


def _checkpoint(file: BinaryIO, head: bytes) -> str | None:
    if head.startswith(_OLD_PICKLE):
        return None
    if not head.startswith(b"PK"):
        return "it is not a checkpoint of PyTorch"
    try:
        with zipfile.ZipFile(file) as archive:
            return None if archive.namelist() else "it is empty"
    except zipfile.BadZipFile:
        return _CUT


def _safetensors(file: BinaryIO, size: int) -> str | None:
    """``N: uint64 little-endian, N bytes of JSON, tensors``; offsets count from the end of the JSON.

    https://huggingface.co/docs/safetensors/index#format
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT:
        return "it is not a safetensors file"
    if 8 + length > size:
        return _CUT
    header = json.loads(file.read(length))
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (AttributeError, KeyError, IndexError, TypeError):
        return "it is not a safetensors file"
    if size != expected:
        return f"it has {size} bytes and should have {expected}"
    return None


def _onnx(file: BinaryIO, size: int) -> str | None:
    """Step over the fields of the ``ModelProto``, of which the graph is one.

    https://protobuf.dev/programming-guides/encoding
    """
    while (position := file.tell()) < size:
        tag = _varint(file)
        kind = None if tag is None or tag >> 3 == 0 else tag & 7
        if kind == 0:
            step = 0 if _varint(file) is not None else None
        elif kind == 2:
            step = _varint(file)
        else:
            step = {1: 8, 5: 4}.get(-1 if kind is None else kind)
        if step is None:
            return _CUT if position else "it is not an ONNX model"
        file.seek(step, 1)
    return None if file.tell() == size else _CUT


def _varint(file: BinaryIO) -> int | None:
    """A number of up to 64 bits, seven in each byte, the lowest first; ``None`` if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
