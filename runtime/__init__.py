"""Inference on an exported bundle with ONNX Runtime, without torch, transformers or adapters.

    import runtime
    predictor = runtime.load("onnx")
    predictor.predict(["a text", ("first of a pair", "second of a pair")])

If no distribution of ONNX Runtime is installed, the import raises a ModuleNotFoundError that names the packages to install.
"""

from runtime.bundle import Manifest
from runtime.cancel import Cancellation
from runtime.compile import compile_bundle
from runtime.errors import AdapterDropError, BundleError, CancelledError, InputError, ProviderError
from runtime.hooks import Hook, Run
from runtime.load import load
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
