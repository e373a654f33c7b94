"""Contenders of our graph on the execution providers that --provider names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import runtime
from benchmarks.contender import Bind, Call, Contender, Feeds, MissingError, Outputs, Precision, Prepared
from exporter import ExportError
from runtime import Options
from runtime.errors import ProviderError
from runtime.ort import plugins
from runtime.ort.float_types import float_type
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, Provider
from runtime.ort.providers import find, installed, not_installed
from runtime.ort.seen_devices import missing_device
from runtime.text.encode import GPUS

# Exports a portable graph in a precision when the folder is first needed.
Portable = Callable[[Precision], Callable[[], Path]]

# Device of a run -> the providers that are measured without --provider
_MEASURED: Final[Mapping[str, tuple[Provider, ...]]] = {"cpu": (CPU, OPENVINO), "cuda": (CUDA,)}


def named(names: Sequence[str], device: str) -> tuple[Provider, ...]:
    """Return the providers that --provider names, each once.

    Args:
        names: names of providers, in any spelling.
        device: device of the run, one of `benchmarks.options.DEVICES`.

    Raises:
        ExportError: a name is unknown, or a provider is measured anyway, not installed or sees no device; the message is the
            reason.
    """
    if any(name.lower() == "auto" for name in names):
        raise ExportError("--provider: expected the name of one provider, found 'auto'; `python -m runtime devices` lists them")
    try:
        found = dict.fromkeys(map(find, names))
        for provider in found:
            if provider in _MEASURED[device]:
                raise ExportError(f"--provider {provider.name}: measured anyway; omit it")
            require(provider)
    except (ProviderError, MissingError) as error:
        raise ExportError(f"--provider: {str(error).removeprefix('provider: ')}") from error
    return tuple(found)


def require(provider: Provider) -> None:
    """Check that a provider is installed and sees a device, as far as that can be seen, before a graph is exported for it.

    Raises:
        MissingError: otherwise; the message is the reason.
    """
    here = installed(provider)
    if here is None:
        raise MissingError(not_installed(provider))
    if here.is_plugin:
        try:
            plugins.select(here, Options())
        except ProviderError as error:
            raise MissingError(str(error)) from error
    elif (missing := missing_device(here, Options())) is not None:
        raise MissingError(f"provider {here.name}: {missing}")


def bind_predictor(predictor: runtime.Predictor, tasks: Sequence[str]) -> Bind:
    """Return the calls of a predictor, from arrays to the logits of all tasks."""

    def bind(feeds: Feeds) -> Call:
        def call() -> Outputs:
            outputs: Any = predictor.run(feeds)
            return [outputs[task] for task in tasks]

        return call

    return bind


def provider_contenders(
    providers: Sequence[Provider], portable: Portable, tasks: Sequence[str], drop: int, threads: int
) -> list[Contender]:
    """Return contenders of `runtime.load(provider=…).run()`: the portable graph in fp32, on GPUs in fp16 too.

    Args:
        providers: the providers.
        portable: gives the folder of the portable export in a precision.
        tasks: names of the tasks.
        drop: number of lowest layers without adapters.
        threads: threads within one operator.
    """

    def contender(provider: Provider, precision: Precision) -> Contender:
        folder = portable(precision)

        def prepare() -> Prepared:
            # Without the folder: the share of the peak would be that of the device's products, not of this provider's
            return Prepared(bind_predictor(runtime.load(folder(), provider=provider.name, threads=threads), tasks))

        # TensorRT rounds the factors of fp32 products, neural engines compute in halves: only exact ones must match
        computed = float_type(provider, [(provider.key, {"load_config": "{}"})], {}) if precision == "fp32" else precision
        label = f"ours, {provider.name} {precision}"
        return Contender(f"{provider.name}-{precision}", label, "ours", computed, drop, prepare)

    return [
        contender(provider, precision)
        for provider in providers
        for precision in (("fp32", "fp16") if provider.name in GPUS else ("fp32",))
    ]
