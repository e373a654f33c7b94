"""`load`: from a bundle folder to a `Predictor`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.bundle import open_bundle
from runtime.checks.requests import check_drop
from runtime.hooks import Hook
from runtime.options import Options
from runtime.ort.check_graph import check_graph
from runtime.ort.open import open_sessions
from runtime.ort.routed_graph import check_routed_graph
from runtime.ort.split_graph import check_split_graph
from runtime.policy import DropPolicy
from runtime.predictor import Predictor
from runtime.states.make_cache import make_cache
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
    state_cache: int | None = None,
) -> Predictor:
    """Load a bundle and check it against its manifest.

    Args:
        folder: folder that `python -m exporter` wrote.
        provider: "cpu", "cuda", "tensorrt", "openvino", "tensorrt-rtx" or "webgpu"; a name of ONNX Runtime, such as
            "CoreMLExecutionProvider", or its short form, such as "coreml"; "auto" selects the best provider that works on this
            machine.
        drop: load only the variant with this drop; None loads all variants, so that `run` and `predict` can choose one.
        threads: threads within one operator; None uses the default of ONNX Runtime.
        verify: compare the sha256 of every file with the manifest. Missing files are an error in any case.
        options: session options, see `Options`; the argument `threads` takes precedence over `options.threads`.
        policy: selects the drop of every call without `drop`, for example `LatencyTarget`; None uses the first drop.
        hooks: context managers around every run of a graph, outermost first, for metrics and traces; see `Hook`.
        state_cache: bytes of trunk states to keep, by token ids and mask, so that a repeated text skips the trunk; for bundles
            that were exported with `--split`. None keeps none.

    Returns:
        A predictor that many threads may share.

    Raises:
        BundleError: the folder is not a bundle, or one of its files is missing, altered or not loadable.
        ProviderError: the provider is unknown, not installed or not working.
        InputError: `drop` was not exported, `threads` is not a positive integer, the cache folder or an option
            cannot be used, or the cache of states is smaller than one text.
    """
    options = Options() if options is None else options
    options = options if threads is None else replace(options, threads=threads)
    manifest, files = open_bundle(folder)
    check_drop(drop, manifest.drops, "exported")
    files.bind(manifest.files, contents=verify)
    drops = manifest.drops if drop is None else (drop,)
    variants = [manifest.variant(each) for each in drops]
    splits = [entry for each in drops if (entry := manifest.split(each)) is not None]
    cache = None if state_cache is None else make_cache(state_cache, splits, manifest)
    models, routed = [each.model for each in variants], [each.routed for each in variants if each.routed]

    split = [graph for entry in splits for graph in entry.graphs]

    def check(graph: str, session: Any) -> None:
        checks = dict.fromkeys(routed, check_routed_graph) | dict.fromkeys(split, check_split_graph)
        checks.get(graph, check_graph)(session, files.path / graph, manifest)

    bundle = open_sessions(files, manifest, [*models, *routed, *split], provider, options, check)
    encoder = TextEncoder.load(files.path, manifest, files.read) if manifest.tokenizer else None
    predictor = Predictor(manifest, drops, options, policy, tuple(hooks), bundle, cache, encoder)
    if policy is not None:  # the policy may change the drop under load, when there is least time to open a graph
        predictor.prepare()
    return predictor
