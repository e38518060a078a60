"""What kind of weights an ONNX graph has, read from its file without a library (protocol buffers,
https://protobuf.dev/programming-guides/encoding/; messages and numbers as in ONNX's ``onnx.proto``)."""

import mmap
from collections.abc import Iterator
from pathlib import Path

_GRAPH, _INITIALIZER, _DATA_TYPE = 7, 5, 2
"""Fields: ``ModelProto.graph``, ``GraphProto.initializer``, ``TensorProto.data_type``."""
_INT8 = 3
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def has_signed_weights(graph: Path) -> bool:
    """Whether any weights of a graph are signed int8; ``False`` also for a file that is none.

    Unsigned ones, as FunASR's own int8 graphs have, take twice the time on a processor with VNNI.
    """
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(
                kind == _INT8
                for _, begin, end in _inside(data, 0, len(data), _GRAPH)
                for _, first, last in _inside(data, begin, end, _INITIALIZER)
                for kind, _, _ in _inside(data, first, last, _DATA_TYPE)
            )
    except (OSError, ValueError, IndexError):
        return False


def _inside(data: mmap.mmap, at: int, end: int, wanted: int) -> Iterator[tuple[int, int, int]]:
    """The fields ``wanted`` of the message from ``at`` to ``end``: a number, or where the bytes lie."""
    while at < end:
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        value, begin = 0, at
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, begin = _varint(data, at)
            at = begin + length
        elif wire in (_FIXED_32, _FIXED_64):
            at += 4 if wire == _FIXED_32 else 8
        else:
            raise ValueError("no message of protocol buffers")
        if field == wanted:
            yield value, begin, at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
