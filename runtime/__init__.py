"""Run an exported adapter bundle with ONNX Runtime; no torch, transformers or adapters needed.

    import runtime
    predictor = runtime.load("onnx")
    predictor.predict(["a text", ("first of a pair", "second of a pair")])

Importing this package raises ModuleNotFoundError, saying what to install, where no flavour of ONNX Runtime is found.
"""

from runtime.bundle import Manifest
from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError, BundleError, CancelledError, InputError, ProviderError
from runtime.hooks import Hook, Run
from runtime.load import load
from runtime.options import CudaOptions, OpenVINOOptions, Options, TensorRTOptions
from runtime.policy import DropPolicy, LatencyTarget
from runtime.predictor import Answers, Prediction, Predictor, Word

__all__ = [
    "AdapterDropError",
    "Answers",
    "BundleError",
    "Cancellation",
    "CancelledError",
    "CudaOptions",
    "DropPolicy",
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
    "Word",
    "load",
]
