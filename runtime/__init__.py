"""Inference on an exported bundle with ONNX Runtime, without torch, transformers or adapters.

    import runtime
    predictor = runtime.load("onnx")
    predictor.predict(["a text", ("first of a pair", "second of a pair")])

If no distribution of ONNX Runtime is installed, the first use of a name raises a ModuleNotFoundError that names the packages to
install.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.bundle import Manifest
    from runtime.cancel import Cancellation
    from runtime.compile_ahead import compile_bundle
    from runtime.errors import AdapterDropError, BundleError, CancelledError, InputError, ProviderError
    from runtime.hooks import Hook, Run
    from runtime.load_bundle import load
    from runtime.options import CudaOptions, OpenVINOOptions, Options, TensorRTOptions
    from runtime.policy import DropPolicy, LatencyTarget
    from runtime.predictor import Answers, Entity, Prediction, Predictor, Word
    from runtime.states import TrunkStates, load_states

__all__ = [
    "AdapterDropError",
    "Answers",
    "BundleError",
    "Cancellation",
    "CancelledError",
    "CudaOptions",
    "DropPolicy",
    "Entity",
    "Hook",
    "InputError",
    "LatencyTarget",
    "Manifest",
    "OpenVINOOptions",
    "Options",
    "Prediction",
    "Predictor",
    "ProviderError",
    "Run",
    "TensorRTOptions",
    "TrunkStates",
    "Word",
    "compile_bundle",
    "load",
    "load_states",
]

_HOMES = {
    "AdapterDropError": "errors",
    "Answers": "predictor",
    "BundleError": "errors",
    "Cancellation": "cancel",
    "CancelledError": "errors",
    "CudaOptions": "options",
    "DropPolicy": "policy",
    "Entity": "predictor",
    "Hook": "hooks",
    "InputError": "errors",
    "LatencyTarget": "policy",
    "Manifest": "bundle",
    "OpenVINOOptions": "options",
    "Options": "options",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "ProviderError": "errors",
    "Run": "hooks",
    "TensorRTOptions": "options",
    "TrunkStates": "states",
    "Word": "predictor",
    "compile_bundle": "compile_ahead",
    "load": "load_bundle",
    "load_states": "states",
}


# Official builds of ONNX Runtime 1.29 and newer report to Microsoft; "0" in the environment allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    # ONNX Runtime, numpy and tokenizers take longer to import than --help and a mistyped option should.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
