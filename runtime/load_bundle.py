"""`load`: from a bundle folder to a `Predictor`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.bundle import MANIFEST, open_bundle
from runtime.checks.requests import check_drop
from runtime.errors import BundleError, InputError
from runtime.hooks import Hook
from runtime.hub import Access, bundle_folder
from runtime.options import Options
from runtime.ort.check_graph import check_graph
from runtime.ort.open_sessions import open_sessions
from runtime.ort.routed_graph import check_routed_graph
from runtime.ort.split_graph import check_split_graph
from runtime.policy import DropPolicy
from runtime.predictor import Predictor
from runtime.slots.graph import check_slots_graph
from runtime.slots.hot_entry import AddedFile
from runtime.slots.hot_tasks import HotTasks, graphs_with_slots, read_layouts
from runtime.states.make_cache import make_cache
from runtime.text.encode import TextEncoder


def load(
    folder: str | os.PathLike[str],
    provider: str = "auto",
    drop: int | None = None,
    threads: int | None = None,
    verify: bool | None = None,
    options: Options | None = None,
    policy: DropPolicy | None = None,
    hooks: Sequence[Hook] = (),
    state_cache: int | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Predictor:
    """Load a bundle and check it against its manifest.

    Args:
        folder: folder that `python -m exporter` wrote, or a hub id "organisation/name@revision", of which the files that the
            manifest lists are downloaded; without a revision, the default branch.
        provider: "cpu", "cuda", "tensorrt", "openvino", "tensorrt-rtx" or "webgpu"; a name of ONNX Runtime, such as
            "CoreMLExecutionProvider", or its short form, such as "coreml"; "auto" selects the best provider that works on this
            machine.
        drop: load only the variant with this drop; None loads all variants, so that `run` and `predict` can choose one.
        threads: threads within one operator; None for one per physical core that this process may use.
        verify: True compares the sha256 of every file with the manifest, and the logits of every graph that is opened with the
            bundle's probe. None leaves out the probe for the provider with which the export was verified, "cpu". False compares
            neither; missing files are an error in any case.
        options: session options, see `Options`; the argument `threads` takes precedence over `options.threads`.
        policy: selects the drop of every call without `drop`, for example `LatencyTarget`; None uses the first drop.
        hooks: context managers around every run of a graph, outermost first, for metrics and traces; see `Hook`.
            `run_trunk` and `run_branches`, which run a part of one, call none.
        state_cache: bytes of trunk states to keep, by token ids and mask, so that a repeated text skips the trunk; for bundles
            that were exported with `--split`. None keeps none.
        token: for a hub id: a token, False for none, None for HF_TOKEN or that of `hf auth login`.
        cache_dir: for a hub id: folder of the hub's cache; None for HF_HUB_CACHE.

    Returns:
        A predictor that many threads may share.

    Raises:
        BundleError: the folder is not a bundle, or one of its files is missing, altered or not loadable; the hub id is not
            available.
        ProviderError: the provider is unknown, not installed or not working, or its logits differ from the probe.
        InputError: `drop` was not exported, `threads` is not a positive integer, the cache folder or an option
            cannot be used, or the cache of states is smaller than one text.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"folder: expected a path or an id of the hub, found {folder!r:.100}")
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise InputError(f"options: expected runtime.Options(…), found {options!r:.100}")
    if verify is not None and not isinstance(verify, bool):
        raise InputError(f"verify: expected True, False or None, found {verify!r:.100}")
    options = options if threads is None else replace(options, threads=threads)
    access = Access(token, None if cache_dir is None else os.path.abspath(cache_dir))  # noqa: PTH100  # resolve follows links
    return _Source(os.fspath(folder), provider, drop, verify, state_cache, access)(options, policy, tuple(hooks), {})


@dataclass(frozen=True)
class _Source:
    """A bundle to load: what a predictor is pickled as, in addition to its options, policy and hooks.

    Attributes:
        folder: folder of the bundle, or its hub id.
        provider: as for `load`.
        drop: as for `load`.
        verify: as for `load`.
        state_cache: as for `load`.
        access: token and cache of the hub; a pickle has no token.
        manifest: sha256 of the manifest that the folder must have; empty for any.
    """

    folder: str
    provider: str
    drop: int | None
    verify: bool | None
    state_cache: int | None
    access: Access
    manifest: str = ""

    def __call__(
        self, options: Options, policy: DropPolicy | None, hooks: tuple[Hook, ...], added: Mapping[str, AddedFile]
    ) -> Predictor:
        """Load the bundle, as `load` does, and add tasks of a pickled predictor.

        Raises:
            BundleError: the manifest is another one.
            InputError: the file of an added task has changed.
        """
        folder, commit = bundle_folder(self.folder, self.access)
        manifest, files = open_bundle(folder)
        if self.manifest and files.hashes[MANIFEST] != self.manifest:
            raise BundleError(
                f"{self.folder}: the predictor was pickled with another bundle in this folder: expected {MANIFEST} with sha256 "
                f"{self.manifest}, found {files.hashes[MANIFEST]}; load and pickle the new one"
            )
        check_drop(self.drop, manifest.drops, "exported")
        files.bind(manifest.files, contents=self.verify is not False)
        drops = manifest.drops if self.drop is None else (self.drop,)
        variants = [manifest.variant(each) for each in drops]
        splits = [entry for each in drops if (entry := manifest.split(each)) is not None]
        cache = None if self.state_cache is None else make_cache(self.state_cache, splits, manifest)
        models, routed = [each.model for each in variants], [each.routed for each in variants if each.routed]
        split = [graph for entry in splits for graph in entry.graphs if graph != entry.slots]
        layouts = read_layouts(files, manifest, drops)
        slots = graphs_with_slots(manifest, layouts)

        def check(graph: str, session: Any) -> None:
            if graph in slots:
                check_slots_graph(session, files.path / graph, manifest, slots[graph])
                return
            checks = dict.fromkeys(routed, check_routed_graph) | dict.fromkeys(split, check_split_graph)
            checks.get(graph, check_graph)(session, files.path / graph, manifest)

        graphs, counts = [*models, *routed, *slots, *split], {graph: layout.total for graph, layout in slots.items()}
        bundle = open_sessions(files, manifest, graphs, self.provider, options, check, self.verify, counts)
        encoder = TextEncoder.load(files.path, manifest, files.read) if manifest.tokenizer else None
        hot = HotTasks(manifest, files, bundle, layouts) if layouts else None
        if hot is not None:
            hot.add_again(added)
        # With its commit, a hub id works on other machines too, and needs no request where the cache has it
        secretless = replace(self.access, token=None)
        same = replace(self, folder=commit or str(files.path), access=secretless, manifest=files.hashes[MANIFEST])
        predictor = Predictor(manifest, drops, options, policy, hooks, bundle, same, cache, encoder, _hot=hot)
        if policy is not None:  # the policy may change the drop under load, when there is least time to open a graph
            predictor.prepare()
        return predictor
