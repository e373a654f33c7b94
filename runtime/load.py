"""`load` a bundle into a `Predictor`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.bundle import check_files, read_manifest
from runtime.checks.requests import check_drop
from runtime.hooks import Hook
from runtime.options import Options
from runtime.ort.check_graph import check_graph
from runtime.ort.open import open_sessions
from runtime.ort.routed_graph import check_routed
from runtime.policy import DropPolicy
from runtime.predictor import Predictor
from runtime.text.encode import TextEncoder


def load(
    folder: str | os.PathLike[str],
    provider: str = "auto",
    drop: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    options: Options | None = None,
    policy: DropPolicy | None = None,
    hooks: Sequence[Hook] = (),
) -> Predictor:
    """Load the bundle in `folder`.

    Args:
        provider: "cpu", "cuda", "tensorrt" or "openvino"; "auto" takes the best that works here.
        drop: load the variant of that drop alone; None loads all of them, so that `run` and `predict` can choose.
        threads: threads within one operation; None leaves it to ONNX Runtime.
        verify: compare every file's sha256 with the manifest. Missing files are refused in any case.
        policy: chooses the drop of every call that names none, say `LatencyTarget`; None = the first drop.
        options: how sessions are made, see `Options`; `threads` above goes before the one there.
        hooks: entered around every run of a graph, the first one outermost; for metrics and traces, see `Hook`.

    Raises:
        BundleError: the folder is no bundle, or a file of it is missing, altered or not loadable.
        ProviderError: the provider is unknown, not installed or not working.
        InputError: `drop` was not exported, `threads` is not a positive integer, or the cache folder cannot be used.
    """
    options = Options() if options is None else options
    options = options if threads is None else replace(options, threads=threads)
    manifest = read_manifest(folder)
    check_drop(drop, manifest.drops, "exported")
    check_files(folder, manifest, contents=verify)
    drops = manifest.drops if drop is None else (drop,)
    variants = [manifest.variant(each) for each in drops]
    models, routed = [each.model for each in variants], [each.routed for each in variants if each.routed]

    def check(graph: str, session: Any) -> None:
        (check_routed if graph in routed else check_graph)(session, Path(folder) / graph, manifest)

    opened = open_sessions(Path(folder), manifest, [*models, *routed], provider, options, check)
    encoder = TextEncoder.load(Path(folder), manifest) if manifest.tokenizer else None
    predictor = Predictor(manifest, drops, options, policy, tuple(hooks), opened, encoder)
    if policy is not None:  # it may change the drop when there is least time to open a graph
        predictor.prepare()
    return predictor
