"""One session of ONNX Runtime: a graph on an execution provider, with its settings."""

import functools
from collections.abc import Callable
from typing import Any

from runtime.bundle import Manifest, slots_file
from runtime.errors import AdapterDropError, BundleError, ProviderError
from runtime.import_ort import ort
from runtime.options import Options
from runtime.ort.device_lock import DEVICE_LOCK
from runtime.ort.empty_tensors import runs_empty_attention
from runtime.ort.graph_file import GraphFile, load_failure
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, TENSORRT, TENSORRT_RTX, Provider, short_name
from runtime.ort.libraries import library_failure
from runtime.ort.option_names import check_session_config
from runtime.ort.plugins import failure, incomplete_build, reason_of
from runtime.ort.progress import announced
from runtime.ort.provider_options import request
from runtime.ort.seen_devices import ON_NVIDIA, missing_device

BY_PATH = (TENSORRT.key, TENSORRT_RTX.key)  # read external data themselves, relative to the path of the graph
_ERRORS_ONLY = 3  # log severity of ONNX Runtime; its warnings concern internal optimizations
_ASSIGNMENTS, _ASSIGNED = "session.record_ep_graph_assignment_info", "get_provider_graph_assignment_info"


def create_session(graph: GraphFile, provider: Provider, manifest: Manifest, options: Options, packed: bool = False) -> Any:
    """Create the session of a graph on a provider; `packed` for a graph that was saved with packed weights.

    Raises:
        BundleError: the graph cannot be loaded.
        ProviderError: the provider does not work.
    """
    if graph.routed and provider is CPU and manifest.target == "cpu" and not runs_empty_attention():
        raise BundleError(
            f"{graph.path}: ONNX Runtime {ort.__version__} ends the process when no row selects one of the structures in this "
            "routed graph; install ONNX Runtime 1.30 or newer, or export it with `--target portable`"
        )
    if (incomplete := incomplete_build(provider)) is not None:
        raise ProviderError(f"provider {provider.name}: {incomplete}, or use provider cpu")
    # onnxruntime-openvino ignores the properties of a device that it does not know
    if provider == OPENVINO and options.openvino.device != "CPU" and (missing := missing_device(provider, options)):
        raise ProviderError(failure(provider, missing))
    settings = session_options(provider, options, packed)
    assigned = _records_nodes(settings, provider, graph.name, manifest)
    if provider in (CUDA, TENSORRT) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(cuda=True, cudnn=True)  # libraries installed by pip; those of the system are found anyway
    try:
        # An engine build takes minutes
        with announced(f"provider {provider.name}: preparing {graph.name}", options.progress):
            # A session that captures without bound outputs returns none after its third run
            providers = request(settings, provider, options, manifest, graphs=graph.name in manifest.main_graphs)
            opened = guarded(graph.session, provider)
            # Compiled data is found relative to the path of its graph
            session = opened(settings, providers, provider.key in BY_PATH or graph.compiled)
    except AdapterDropError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        if provider is CPU:
            given = ", ".join(options.session_config)
            cause = f"; with options.session_config ({given}), which may be the reason" if given else ""
            raise BundleError(f"{graph.path}: {load_failure(error)}{cause}") from error
        missing = missing_device(provider, options)
        raise ProviderError(failure(provider, reason_of(error) + (f"; {missing}" if missing else ""))) from error
    # ONNX Runtime drops a provider whose libraries are missing, without an exception
    if (found := short_name(session.get_providers()[0])) != provider.name:
        reason = library_failure(provider) or missing_device(provider, options) or "the reason is in its log"
        raise ProviderError(failure(provider, f"ONNX Runtime fell back to {found}: {reason}"))
    if assigned is not None and not assigned(session):
        raise ProviderError(
            f"provider {provider.name}: it takes none of the nodes of {graph.name}, so another provider would run "
            "them all, maybe for a reason in its log: use provider cpu, or export with another --target"
        )
    return session


def _records_nodes(settings: Any, provider: Provider, graph: str, manifest: Manifest) -> Callable[[Any], bool] | None:
    """Let a session record which provider takes which node, where ONNX Runtime can.

    Returns:
        The function from a session to whether the provider takes a node; None if that is not checked.
    """
    if provider is CPU or graph not in manifest.main_graphs or not hasattr(ort.InferenceSession, _ASSIGNED):
        return None
    settings.add_session_config_entry(_ASSIGNMENTS, "1")
    return lambda session: any(each.ep_name.partition(".")[0] == provider.key for each in getattr(session, _ASSIGNED)())


def session_options(provider: Provider, options: Options, packed: bool) -> Any:
    """Return the SessionOptions for a provider; `packed` for a graph that was saved with packed weights."""
    check_session_config(options.session_config)
    found = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    # OpenVINO optimizes graphs itself and supports only standard operators
    plain = packed or provider.key == OPENVINO.key
    found.graph_optimization_level = levels.ORT_DISABLE_ALL if plain else levels.ORT_ENABLE_ALL
    found.log_severity_level = _ERRORS_ONLY
    if options.threads is not None:
        found.intra_op_num_threads = options.threads
    if provider is CPU:
        _shared_arena(options.memory_limit)
    for name, value in {**_session_config(provider, options), **options.session_config}.items():
        found.add_session_config_entry(name, value)
    return found


def _session_config(provider: Provider, options: Options) -> dict[str, str]:
    """Return the settings that Options have names for."""
    found = {"session.use_env_allocators": "1"} if provider is CPU else {}
    if options.spin:
        # By default threads spin for some 30 ms after a run, next to those of the session that runs then: on two cores, trunk
        # and branches one after the other took 1.6 times as long, and one text every 40 ms twice the CPU time.
        return found | {"session.force_spinning_stop": "1"}
    return found | {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}


@functools.cache
def _shared_arena(limit: int | None) -> None:
    """Register one CPU arena for all sessions, so that variants share the memory for activations."""
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {"arena_extend_strategy": 1}  # same as requested; the default doubles the arena whenever it grows
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(settings | ({} if limit is None else {"max_mem": limit})))


def guarded(call: Callable[..., Any], provider: Provider) -> Callable[..., Any]:
    """Return a call that on a GPU of NVIDIA waits while a CUDA graph is captured."""
    return DEVICE_LOCK.during(call) if provider.key in ON_NVIDIA else call


def names_of_inputs(session: Any) -> list[str]:
    """Return the names of the inputs of a session."""
    return [value.name for value in session.get_inputs()]


def is_routed(graph: str, manifest: Manifest) -> bool:
    """Return whether a graph selects rows by their values; the shapes in all others follow from those of the inputs."""
    whole = {name for variant in manifest.variants for name in (variant.routed, slots_file(variant.model))}
    return graph in whole | {name for entry in manifest.splits.values() for name in (entry.routed, entry.slots)}
