"""External data references of an ONNX file, read and rewritten without the onnx package.

The module implements only the necessary part of the protobuf encoding: a message is a sequence of fields, each with a key
(number and wire type) and a value.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

Entries: TypeAlias = dict[str, str]  # external data of a tensor: location, offset, length, …

_GRAPH: Final = 7  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_ATTRIBUTE: Final = 5  # of NodeProto
_SUBGRAPHS: Final = (6, 11)  # of AttributeProto: g and graphs
_EXTERNAL: Final = 13  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def rewrite(model: bytes, change: Callable[[Entries], Entries]) -> bytes:
    """Change the external data of every initializer, including those in subgraphs.

    Args:
        model: serialized ONNX model.
        change: function from the old entries of an initializer to the new ones.

    Returns:
        The serialized model with the new entries.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    return _each(model, {_GRAPH: lambda graph: _graph(graph, change)})


def _graph(graph: bytes, change: Callable[[Entries], Entries]) -> bytes:
    def attribute(data: bytes) -> bytes:
        return _each(data, dict.fromkeys(_SUBGRAPHS, lambda inner: _graph(inner, change)))

    return _each(
        graph,
        {
            _NODE: lambda node: _each(node, {_ATTRIBUTE: attribute}),
            _INITIALIZER: lambda tensor: _tensor(tensor, change),
        },
    )


def _tensor(tensor: bytes, change: Callable[[Entries], Entries]) -> bytes:
    entries: Entries = {}
    rest = bytearray()
    for number, kind, start, value, end in _fields(tensor):
        if number == _EXTERNAL and kind == _BYTES:
            pair = {key: tensor_field for key, _, _, tensor_field, _ in _fields(value)}
            entries[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        else:
            rest += tensor[start:end]
    if not entries:
        return tensor
    for key, text in change(entries).items():
        rest += _field(_EXTERNAL, _field(1, key.encode()) + _field(2, text.encode()))
    return bytes(rest)


def _each(message: bytes, changes: dict[int, Callable[[bytes], bytes]]) -> bytes:
    """Apply `changes`, by field number, to the submessages of `message`."""
    found = bytearray()
    for number, kind, start, value, end in _fields(message):
        change = changes.get(number) if kind == _BYTES else None
        found += message[start:end] if change is None else _field(number, change(value))
    return bytes(found)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Yield (number, wire type, start, value of a length-delimited field, end) for every field."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        number, kind, value = key >> 3, key & 7, b""
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind == _BYTES:
            length, place = _varint(message, place)
            value = message[place : place + length]
            place += length
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"expected a protobuf message, found wire type {kind} at byte {start}")
        if place > len(message):
            raise ValueError(f"expected a protobuf message, found its end within the field at byte {start}")
        yield number, kind, start, value, place


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError(f"expected a protobuf message, found an endless number at byte {place}")


def _field(number: int, value: bytes) -> bytes:
    return _number(number << 3 | _BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
