"""Run an exported adapter bundle with ONNX Runtime; no torch, transformers or adapters needed.

    import runtime
    predictor = runtime.load("onnx")
    predictor.predict(["a text", ("first of a pair", "second of a pair")])

Importing this package raises ModuleNotFoundError, saying what to install, where no flavour of ONNX Runtime is found.
"""

from runtime.bundle import Manifest
from runtime.errors import AdapterDropError, BundleError, InputError, ProviderError
from runtime.predict import Prediction, Predictor, Word, load

__all__ = [
    "AdapterDropError",
    "BundleError",
    "InputError",
    "Manifest",
    "Prediction",
    "Predictor",
    "ProviderError",
    "Word",
    "load",
]
