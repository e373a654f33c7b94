"""`load`: from a bundle folder to a `Predictor`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runtime.bundle import open_bundle, slots_file
from runtime.checks.requests import check_drop
from runtime.hooks import Hook
from runtime.options import Options
from runtime.ort.check_graph import check_graph
from runtime.ort.open import open_sessions
from runtime.ort.routed_graph import check_routed_graph
from runtime.policy import DropPolicy
from runtime.predictor import Predictor
from runtime.slots.graph import check_slots_graph
from runtime.slots.hot_tasks import HotTasks, read_layouts
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

    Returns:
        A predictor that many threads may share.

    Raises:
        BundleError: the folder is not a bundle, or one of its files is missing, altered or not loadable.
        ProviderError: the provider is unknown, not installed or not working.
        InputError: `drop` was not exported, `threads` is not a positive integer, or the cache folder or an option
            cannot be used.
    """
    options = Options() if options is None else options
    options = options if threads is None else replace(options, threads=threads)
    manifest, files = open_bundle(folder)
    check_drop(drop, manifest.drops, "exported")
    files.bind(manifest.files, contents=verify)
    drops = manifest.drops if drop is None else (drop,)
    variants = [manifest.variant(each) for each in drops]
    models, routed = [each.model for each in variants], [each.routed for each in variants if each.routed]
    layouts = read_layouts(files, manifest, drops)
    slots = {slots_file(manifest.variant(drop).model): layout for drop, layout in layouts.items()}

    def check(graph: str, session: Any) -> None:
        if graph in slots:
            check_slots_graph(session, files.path / graph, manifest, slots[graph])
            return
        (check_routed_graph if graph in routed else check_graph)(session, files.path / graph, manifest)

    bundle = open_sessions(files, manifest, [*models, *routed, *slots], provider, options, check)
    encoder = TextEncoder.load(files.path, manifest, files.read) if manifest.tokenizer else None
    hot = HotTasks(manifest, files, bundle, layouts) if layouts else None
    predictor = Predictor(manifest, drops, options, policy, tuple(hooks), bundle, encoder, _hot=hot)
    if policy is not None:  # the policy may change the drop under load, when there is least time to open a graph
        predictor.prepare()
    return predictor
