"""Names of ONNX Runtime's settings. A misspelt one is refused: ONNX Runtime and plug-ins ignore names that they do not know."""

import difflib
import functools
import importlib
import logging
import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from runtime.errors import InputError
from runtime.import_ort import ort
from runtime.ort.known_providers import Provider
from runtime.ort.libraries import is_library

_LOGGER: Final = logging.getLogger("runtime.options")
_MISSPELT: Final = 0.8  # ratio of difflib from which a name is another one with a mistake

# Entries of the session configuration that the wheels of this version read, on Linux, Windows and macOS. Those for mixtures of
# experts, which no graph of an adapter model contains, are found in the installed library only.
_LISTED: Final = (1, 32)
_SESSION: Final[Mapping[str, str]] = {
    "ep": """
        context_embed_mode context_enable context_file_path context_model_external_initializers_file_name
        context_node_name_prefix context_source_model_path cuda.fpa_intb_dequant_gemm_min_m cuda.fpa_intb_gemm
        cuda.fpa_intb_profile_m cuda.gqa_workspace_max_total_sequence_length cuda.matmul_nbits_m_chunk_size
        cuda.runtime_fusion.causal_conv_with_state cuda.runtime_fusion.unit_swish dynamic.workload_type
        enable_weightless enable_weightless_ep_context_nodes enable_weightless_mode nnapi.partitioning_stop_ops
        share_ep_contexts stop_share_ep_contexts
    """,
    "memory": """
        enable_memory_arena_shrinkage
    """,
    "mlas": """
        disable_kleidiai enable_gemm_fastmath_arm64_bfloat16 kleidiai.conv_igemm_max_work nchwc_depthwise_sliding
        nchwc_pointwise_conv_max_input_channel_batch qnbit.force_fp32 use_lut_gemm
    """,
    "optimization": """
        constant_folding_max_output_size_in_bytes disable_specified_optimizers enable_cast_chain_elimination
        enable_gelu_approximation minimal_build_optimizations
    """,
    "session": """
        allow_released_opsets_only collect_node_memory_stats_to_file compile_only debug_layout_transformation
        disable_aot_function_inlining disable_cpu_ep_fallback disable_double_qdq_remover disable_model_compile
        disable_prepacking disable_qdq_constant_folding disable_quant_qdq dynamic_block_base enable_cpu_mem_arena
        enable_dq_matmulnbits_fusion enable_mem_pattern enable_profiling enable_quant_qdq_cleanup
        enable_saved_runtime_optimizations execution_mode external_data_loader.chunk_bytes
        external_data_loader.min_size_bytes external_data_loader.pinned_memory_bytes external_data_loader.threads
        fail_on_suboptimal_compiled_model force_spinning_stop function_expansion_byte_limit
        function_expansion_node_limit gqa_value_layout graph_optimization_level graph_optimizations_loop_level
        inter_op.allow_spinning inter_op.spin_backoff_max inter_op.spin_duration_us inter_op_num_threads
        intra_op.allow_spinning intra_op.spin_backoff_max intra_op.spin_duration_us intra_op_num_threads
        intra_op_thread_affinities kernel_dispatch_policy layer_assignment_settings load_model_format log_id
        log_severity_level log_verbosity_level max_shape_override model_external_initializers_file_folder_path
        name_based_layer_assignment node_partition_config_file optimized_model_external_initializers_file_name
        optimized_model_external_initializers_min_size_in_bytes optimized_model_filepath prepack.enable_parallel
        qdq_matmulnbits_accuracy_level qdq_matmulnbits_block_size qdqisint8allowed record_ep_graph_assignment_info
        resource_cuda_partitioning_settings save_external_prepacked_constant_initializers save_model_format
        set_denormal_as_zero strict_shape_type_inference strict_workspace_verification use_deterministic_compute
        use_device_allocator_for_initializers use_env_allocators use_external_initializer_file_buffers_directly
        use_memory_mapped_ort_model use_ort_model_bytes_directly use_ort_model_bytes_for_initializers
        use_per_session_threads x64quantprecision
    """,
}
SESSION_KEYS: Final = frozenset(f"{area}.{name}" for area, names in _SESSION.items() for name in names.split())

# Provider -> its documented options
_OPTIONS: Final[Mapping[str, str]] = {
    "cuda": """
        device_id user_compute_stream do_copy_in_default_stream gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search
        cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph enable_skip_layer_norm_strict_mode use_tf32
        prefer_nhwc use_ep_level_unified_stream tunable_op_enable tunable_op_tuning_enable tunable_op_max_tuning_duration_ms
        fuse_conv_bias sdpa_kernel gpu_external_alloc gpu_external_free gpu_external_empty_cache
    """,
    "tensorrt": """
        device_id user_compute_stream trt_max_workspace_size trt_max_partition_iterations trt_min_subgraph_size trt_fp16_enable
        trt_bf16_enable trt_int8_enable trt_int8_calibration_table_name trt_int8_use_native_calibration_table trt_dla_enable
        trt_dla_core trt_engine_cache_enable trt_engine_cache_path trt_engine_cache_prefix trt_dump_subgraphs
        trt_force_sequential_engine_build trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback
        trt_timing_cache_enable trt_timing_cache_path trt_force_timing_cache trt_detailed_build_log
        trt_build_heuristics_enable trt_cuda_graph_enable trt_sparsity_enable trt_builder_optimization_level
        trt_auxiliary_streams trt_tactic_sources trt_extra_plugin_lib_paths trt_profile_min_shapes trt_profile_max_shapes
        trt_profile_opt_shapes trt_dump_ep_context_model trt_ep_context_file_path trt_ep_context_embed_mode
        trt_weight_stripped_engine_enable trt_onnx_model_folder_path trt_engine_hw_compatible trt_op_types_to_exclude
        trt_preview_features trt_load_user_initializer
    """,
    "tensorrt-rtx": """
        device_id user_compute_stream nv_max_workspace_size nv_max_shared_mem_size nv_dump_subgraphs nv_detailed_build_log
        nv_profile_min_shapes nv_profile_max_shapes nv_profile_opt_shapes nv_multi_profile_enable nv_cuda_graph_enable
        nv_use_external_data_initializer nv_runtime_cache_path
    """,
    "openvino": """
        device_type device_id device_luid precision num_of_threads num_streams cache_dir load_config enable_qdq_optimizer
        disable_dynamic_shapes model_priority reshape_input layout enable_opencl_throttling enable_causallm context
    """,
    "webgpu": """
        preferredLayout enableGraphCapture enablePIXCapture enableInt64 powerPreference dawnBackendType dawnProcTable
        validationMode deviceId forceCpuNodeNames preserveDevice storageBufferCacheMode uniformBufferCacheMode
        queryResolveBufferCacheMode defaultBufferCacheMode maxStorageBufferBindingSize
    """,
    "coreml": """
        ModelFormat MLComputeUnits RequireStaticInputShapes EnableOnSubgraphs SpecializationStrategy ProfileComputePlan
        AllowLowPrecisionAccumulationOnGPU ModelCacheDirectory
    """,
    "qnn": """
        backend_type backend_path profiling_level rpc_control_latency vtcm_mb htp_performance_mode qnn_context_priority
        htp_graph_finalization_optimization_mode soc_model htp_arch device_id enable_htp_fp16_precision
        offload_graph_io_quantization
    """,
    "dml": "device_id performance_preference device_filter disable_metacommands enable_graph_capture",
}


def check_session_config(config: Iterable[str]) -> None:
    """Check the names of `Options.session_config`.

    An entry that neither the list nor the installed library contains is refused. Those of providers and of a newer ONNX Runtime
    may be correct nevertheless: such an entry is refused only if it is close to one of the list, otherwise a warning is logged.

    Raises:
        InputError: ONNX Runtime would ignore an entry; the message has the nearest one.
    """
    for name in config:
        if name not in SESSION_KEYS and not _in_onnxruntime(name):
            is_open = name.startswith("ep.") or _version() > _LISTED
            _report(f"options.session_config: ONNX Runtime {ort.__version__} has no entry {name}", name, SESSION_KEYS, is_open)


def check_provider_options(provider: Provider, options: Iterable[str]) -> None:
    """Check the names of `Options.provider_options`.

    A name that is close to a documented one, and is not in the installed library, is refused. Providers that are compiled into
    ONNX Runtime refuse others themselves; a plug-in ignores them, so that a warning is logged.

    Raises:
        InputError: the provider would ignore or refuse an option; the message has the nearest one.
    """
    documented = _OPTIONS.get(provider.name, "").split()
    for name in options:
        if name not in documented and not _is_installed(provider, name):
            message = f"options.provider_options: provider {provider.name} has no documented option {name}"
            if provider.is_plugin or _nearest(name, documented, _MISSPELT):
                _report(message, name, documented, is_open=True)


def _report(message: str, name: str, known: Iterable[str], is_open: bool) -> None:
    misspelt = _nearest(name, known, _MISSPELT)
    nearest = misspelt or _nearest(name, known, 0.6)
    message += f"; the nearest is {nearest}" if nearest else "; see ONNX Runtime's documentation for its names"
    if misspelt or not is_open:
        raise InputError(message)
    _warn(f"{message}; it may be ignored")


@functools.cache  # once per process, not for every session
def _warn(message: str) -> None:
    _LOGGER.warning("%s", message)


def _nearest(name: str, known: Iterable[str], ratio: float) -> str | None:
    folded = {each.lower(): each for each in known}
    return next((folded[each] for each in difflib.get_close_matches(name.lower(), folded, 1, ratio)), None)


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])


def _is_installed(provider: Provider, name: str) -> bool:
    """Whether the library of a provider contains a name; False for one that the process has registered itself."""
    if not provider.is_plugin:
        return _in_onnxruntime(name)
    return bool(provider.module) and _contains(_folder_of(str(provider.module)), name)


def _in_onnxruntime(name: str) -> bool:
    """Whether a library of the installed ONNX Runtime contains a name, which another version or build may have added."""
    return _contains(Path(ort.__file__).parent / "capi", name)


def _folder_of(module: str) -> Path:
    return Path(str(importlib.import_module(module).get_library_path())).parent


@functools.cache
def _contains(folder: Path, name: str) -> bool:
    """Whether a library of a folder has a string as a constant."""
    wanted = f"\0{name}\0".encode()
    return any(_has(path, wanted) for path in folder.iterdir() if is_library(path.name) and path.stat().st_size)


def _has(path: Path, wanted: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(wanted) >= 0
