"""The device of the contenders: how PyTorch and ONNX Runtime address it, its memory, and its synchronization.

With `--device cuda`, all contenders use this module only. Its CPU device runs the same code without a GPU, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from benchmarks.contender import Feeds, MissingError, Outputs
from benchmarks.ort_options import session_options
from exporter import ExportError

_KEYS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Outputs start at multiples of this, as separate allocations would.
_ALIGNMENT = 256


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        name: name in PyTorch, in ONNX Runtime's IO binding and in `runtime.load(provider=…)`.
        threads: threads within one operator of a session on the CPU.
    """

    name: Literal["cpu", "cuda"]
    threads: int = 1

    @property
    def warm_calls(self) -> int:
        """Calls of every contender before a shape is timed."""
        return 10 if self.name == "cuda" else 2

    def synchronize(self) -> None:
        """Wait for the work of all streams of the device."""
        if self.name == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give the memory that PyTorch keeps for later back to the device."""
        if self.name == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def used_memory(self) -> int | None:
        """Return the used memory of the device in bytes, that of other processes included; None on the CPU."""
        if self.name == "cpu":
            return None
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free

    def tensors(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        """Copy inputs to the device and wait for the copies."""
        found = {name: torch.from_numpy(array).to(self.name) for name, array in feeds.items()}
        self.synchronize()
        return found

    def session(self, graph: Path | bytes, tf32: bool = False, cuda_graph: bool = False, provider: str | None = None) -> Any:
        """Open a graph on the device.

        Args:
            graph: file of the graph, or its bytes.
            tf32: allow TF32 in matrix products of fp32.
            cuda_graph: capture the runs as CUDA graphs.
            provider: ONNX Runtime's name of another provider, without options; None for the provider of the device.

        Raises:
            MissingError: ONNX Runtime fell back to another provider.
        """
        # The options of the runtime package.
        found = {
            "device_id": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": str(int(tf32)),
            "enable_cuda_graph": str(int(cuda_graph)),
        }
        key = provider or _KEYS[self.name]
        providers = [(key, found) if key == _KEYS["cuda"] else key]
        session = onnxruntime.InferenceSession(graph, session_options(self.threads), providers=providers)
        if session.get_providers()[0] != key:
            raise MissingError(f"ONNX Runtime fell back to {', '.join(session.get_providers())}")
        return session


def open_device(name: str, threads: int) -> Device:
    """Return a device after a small graph has run on it.

    Args:
        name: "cpu" or "cuda".
        threads: threads within one operator on the CPU.

    Raises:
        ExportError: the device does not work; the message is the reason.
    """
    if name == "cpu":
        return Device("cpu", threads)
    if not torch.cuda.is_available():
        built = "is a CPU build" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        raise ExportError(f"--device cuda: PyTorch finds no GPU (torch {torch.__version__} {built}); check nvidia-smi")
    if _KEYS[name] not in onnxruntime.get_available_providers():
        raise ExportError(
            f"--device cuda: onnxruntime {onnxruntime.__version__} has no CUDA provider; uninstall it and "
            "`pip install onnxruntime-gpu`"
        )
    # fp32 is fp32: the reference of the check must not round its factors.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = Device("cuda")
    try:
        probe(device)
    except Exception as error:  # both libraries raise any exception
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(
            f"--device cuda: onnxruntime {onnxruntime.__version__} cannot use the GPU: {reason}; check that it is "
            f"onnxruntime-gpu for CUDA {torch.version.cuda}"
        ) from error
    return device


def probe(device: Device, provider: str | None = None) -> None:
    """Add two vectors on the device, with IO binding to tensors of PyTorch.

    Args:
        device: the device.
        provider: as for `Device.session`.

    Raises:
        MissingError: ONNX Runtime does not run on the device, or the sum is wrong.
    """
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=onnx.IR_VERSION_2023_5_5)
    session = device.session(model.SerializeToString(), provider=provider)
    x = torch.arange(4, dtype=torch.float32, device=device.name)
    y = torch.zeros(4, device=device.name)
    device.synchronize()
    binding = session.io_binding()
    binding.bind_input("x", device.name, 0, np.float32, [4], x.data_ptr())
    binding.bind_output("y", device.name, 0, np.float32, [4], y.data_ptr())
    session.run_with_iobinding(binding)
    device.synchronize()
    if y.tolist() != [0.0, 2.0, 4.0, 6.0]:
        raise MissingError(f"expected the sums 0, 2, 4, 6 of a first graph, found {y.tolist()}")


def to_host(logits: Sequence[torch.Tensor]) -> Outputs:
    """Copy the logits of all tasks to the host in one transfer, which waits for their computation."""
    flat = torch.cat([each.flatten() for each in logits]).cpu().float().numpy()
    ends = np.cumsum([each.numel() for each in logits])[:-1]
    return [part.reshape(each.shape) for part, each in zip(np.split(flat, ends), logits, strict=True)]


class OutputBuffer:
    """One fp32 buffer on the device for the outputs of all tasks, which travels to the host in one transfer."""

    def __init__(self, device: Device, shapes: Sequence[tuple[int, ...]]) -> None:
        """Allocate the buffer, filled with NaN: an output that nothing writes is then found by the check."""
        self.shapes = tuple(shapes)
        self._sizes = [int(np.prod(shape)) for shape in shapes]
        step = _ALIGNMENT // 4
        self._starts = np.cumsum([0, *(-(-size // step) * step for size in self._sizes)]).tolist()
        self._flat = torch.empty(self._starts[-1], dtype=torch.float32, device=device.name)
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Fill the buffer with NaN."""
        self._flat.fill_(float("nan"))
        self._device.synchronize()

    def address(self, number: int) -> int:
        """Return the address of an output."""
        return int(self._flat.data_ptr()) + 4 * int(self._starts[number])

    def to_host(self) -> Outputs:
        """Copy all outputs to the host; the runs that write them must have ended."""
        flat = self._flat.cpu().numpy()
        if self._device.name == "cpu":
            flat = flat.copy()  # .cpu() copies nothing there
        parts = zip(self._starts[:-1], self._sizes, self.shapes, strict=True)
        return [flat[start : start + size].reshape(shape) for start, size, shape in parts]
