"""External data references of an ONNX file, read and rewritten without the onnx package.

The module implements only the necessary part of the protobuf encoding: a message is a sequence of fields, each with a key
(number and wire type) and a value.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

Entries: TypeAlias = dict[str, str]  # external data of a tensor: location, offset, length, …

# Message that can contain a tensor -> field number -> kind of the submessage.
_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_OPERATOR, _ATTRIBUTE = 4, 5  # of NodeProto
_NAME, _INTEGER, _STRING = 1, 3, 4  # of AttributeProto
_EMBEDDED: Final = b"\x18\x01"  # an attribute's integer 1
_EXTERNAL: Final = 13  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_KEY: Final = 2**32 - 1
# Operator of a subgraph that a provider compiled; it can name a file, which the provider then opens.
_COMPILED: Final = b"EPContext"


def rewrite(model: bytes, change: Callable[[Entries], Entries]) -> bytes:
    """Change the external data of every tensor, including those in subgraphs, attributes and functions.

    Args:
        model: serialized ONNX model.
        change: function from the old entries of a tensor to the new ones.

    Returns:
        The serialized model with the new entries.

    Raises:
        ValueError: the bytes are not a protobuf message.
    """
    try:
        return _changed(model, "model", change)
    except RecursionError as error:
        raise ValueError("expected a protobuf message, found one that is nested too deeply") from error


def locations(model: bytes, compiled: bool = False) -> list[str]:
    """List the files that contain external data of a model.

    Args:
        model: serialized ONNX model.
        compiled: allow nodes that a provider compiled, and list their files as well.

    Returns:
        Sorted locations, as the model names them.

    Raises:
        ValueError: the bytes are not a protobuf message, or readers of protobuf can disagree about the files they name.
    """
    found: set[str] = set()
    try:
        for kind, message in _naming(model, "model"):
            if kind == "node":
                if not compiled:
                    raise ValueError(f"expected operators, found a node {_COMPILED.decode()}, which can open any file")
                found.update(_context_files(message))
                continue
            entries, _ = _split(message)
            if entries:
                found.add(entries.get("location", ""))
    except RecursionError as error:
        raise ValueError("expected a protobuf message, found one that is nested too deeply") from error
    return sorted(found)


def is_compiled(model: bytes) -> bool:
    """Whether a provider compiled nodes of a model. Raises ValueError if the bytes are not a protobuf message."""
    return any(kind == "node" for kind, _ in _naming(model, "model"))


def _naming(message: bytes, kind: str) -> Iterator[tuple[str, bytes]]:
    """Yield what can name files: ("tensor", …), and ("node", …) for nodes that a provider compiled."""
    if kind == "tensor":
        yield kind, message
        return
    inside = _INSIDE[kind]
    for number, wire, _, value, _ in _fields(message):
        if wire == _BYTES and number in inside:
            yield from _naming(value, inside[number])
        elif wire == _BYTES and kind == "node" and number == _OPERATOR and value == _COMPILED:
            yield kind, message


def _context_files(node: bytes) -> Iterator[str]:
    """Yield the file of a compiled node; none if the node has the compiled data itself."""
    found: dict[tuple[bytes, int], list[bytes]] = {}
    for number, wire, _, attribute, _ in _fields(node):
        if number == _ATTRIBUTE and wire == _BYTES:
            fields = [
                (field, text if kind == _BYTES else attribute[start:end])
                for field, kind, start, text, end in _fields(attribute)
            ]
            names = [value for field, value in fields if field == _NAME]
            for field, value in fields:
                found.setdefault((names[-1] if names else b"", field), []).append(value)
    mode, contexts = found.get((b"embed_mode", _INTEGER), []), found.get((b"ep_cache_context", _STRING), [])
    if len(mode) > 1 or len(contexts) > 1:  # readers can disagree about which one counts
        raise ValueError(f"expected one file in a node {_COMPILED.decode()}, found several")
    if mode != [_EMBEDDED]:
        yield contexts[0].decode() if contexts else ""


def _changed(message: bytes, kind: str, change: Callable[[Entries], Entries]) -> bytes:
    if kind == "tensor":
        entries, rest = _split(message)
        if not entries:
            return message
        pairs = (_field(1, key.encode()) + _field(2, text.encode()) for key, text in change(entries).items())
        return rest + b"".join(_field(_EXTERNAL, pair) for pair in pairs)
    found, inside = bytearray(), _INSIDE[kind]
    for number, wire, start, value, end in _fields(message):
        if wire == _BYTES and number in inside:
            found += _field(number, _changed(value, inside[number], change))
        else:
            found += message[start:end]
    return bytes(found)


def _split(tensor: bytes) -> tuple[Entries, bytes]:
    """Return the external data entries of a tensor, and its other fields."""
    entries: Entries = {}
    rest = bytearray()
    for number, wire, start, value, end in _fields(tensor):
        if number == _EXTERNAL and wire == _BYTES:
            pair = {key: text for key, _, _, text, _ in _fields(value)}
            name = pair.get(1, b"").decode()
            if name in entries:
                raise ValueError(f"expected a protobuf message whose tensors have one {name!r} each, found several")
            entries[name] = pair.get(2, b"").decode()
        else:
            rest += tensor[start:end]
    return entries, bytes(rest)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Yield (number, wire type, start, value of a length-delimited field, end) for every field."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        if key > _LARGEST_KEY:  # other readers use the lower 32 bits
            raise ValueError(f"expected a protobuf message, found the key {key} at byte {start}")
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
    if place < len(message) and (byte := message[place]) < 0x80:  # the usual case, which is worth a fast path
        return byte, place + 1
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
