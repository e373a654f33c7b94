"""The identity of a value: what is computed, not where it stands or how it is named."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import onnx_ir as ir

__all__ = ["Identities", "WeightDigests"]

# File, offset and length of a weight -> digest of its content.
WeightDigests = dict[tuple[str, int, int], bytes]


class Identities:
    """Computes an identity for each value of a graph that depends on no task.

    Two values have the same identity if the same operators compute them from the same weights and inputs. The identity
    therefore names a trunk state in the graphs of several drops, in the routed graph, and in later exports: states that were
    computed before tasks were added to a bundle remain valid.
    """

    def __init__(self, graph: ir.Graph, branch: Collection[ir.Value], weights: WeightDigests) -> None:
        """Compute the identities.

        Args:
            graph: nodes in topological order.
            branch: values that depend on a task; they have no identity.
            weights: digests of the weights that were read for other graphs of the bundle; receives those of this one.
        """
        self._weights = weights
        self._digests: dict[ir.Value, bytes] = {}
        for value in graph.inputs:
            self._digests[value] = _digest(b"input", str(value.name).encode())
        versions = repr(sorted(graph.opset_imports.items())).encode()
        for node in graph:
            if any(output in branch for output in node.outputs):
                continue
            parts = [versions, node.domain.encode(), node.op_type.encode()]
            parts += [_attribute(node.attributes[name]) for name in sorted(node.attributes)]
            parts += [b"" if value is None else self._of(value) for value in node.inputs]
            for index, output in enumerate(node.outputs):
                self._digests[output] = _digest(*parts, str(index).encode())

    def __getitem__(self, value: ir.Value) -> str:
        """Return the identity of a value, 64 hexadecimal digits."""
        return self._digests[value].hex()

    def find(self, identity: str) -> ir.Value | None:
        """Return the value with an identity; None if the graph does not compute it."""
        wanted = bytes.fromhex(identity)
        return next((value for value, digest in self._digests.items() if digest == wanted), None)

    def _of(self, value: ir.Value) -> bytes:
        if value not in self._digests:
            tensor = value.const_value
            assert tensor is not None, f"{value.name}: expected an initializer"
            shape = repr((tensor.dtype.name, tuple(tensor.shape.numpy()))).encode()
            self._digests[value] = _digest(b"weight", shape, self._content(tensor))
        return self._digests[value]

    def _content(self, tensor: ir.TensorProtocol) -> bytes:
        if not isinstance(tensor, ir.ExternalTensor):
            return _digest(tensor.tobytes())
        place = (str(tensor.path), tensor.offset or 0, tensor.length or 0)
        if place not in self._weights:
            self._weights[place] = _digest(tensor.tobytes())
            tensor.release()
        return self._weights[place]


def _attribute(attribute: ir.Attr) -> bytes:
    return bytes(ir.to_proto(attribute).SerializeToString(deterministic=True))


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()
