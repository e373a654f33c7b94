"""The graph compiler. One pass a file; the order stands in _pipeline.py alone."""

from ._absorb_projections import AbsorbProjectionsPass
from ._convert_to_half import ConvertToHalfPass
from ._drop_expands import DropExpandsPass
from ._drop_nan_guards import DropNanGuardsPass
from ._fold_constants import FoldConstantsPass
from ._fold_scales import FoldScalesPass
from ._fuse_attention import FuseAttentionPass
from ._fuse_skip_layer_norm import FuseSkipLayerNormPass
from ._join_groups import JoinGroupsPass
from ._lower_opset import LowerOpsetPass
from ._merge_casts import MergeCastsPass
from ._merge_reshapes import MergeReshapesPass
from ._merge_routes import MergeRoutesPass
from ._merge_siblings import MergeSiblingsPass
from ._merge_transposes import MergeTransposesPass
from ._merge_weights import MergeWeightsPass
from ._name_transposed import NameTransposedPass
from ._pipeline import (
    JOINED,
    ROUTED,
    Group,
    branch_size,
    clean_groups,
    compile_groups,
    final_passes,
    graph_size,
    route_groups,
    run_passes,
    template_passes,
)
from ._push_slices import PushSlicesPass
from ._quantize_dynamic import QuantizeDynamicPass
from ._quantize_static import QuantizeStaticPass, quantized_activations
from ._reassociate_products import ReassociateProductsPass
from ._remove_no_ops import RemoveNoOpsPass
from ._reuse_sums import ReuseSumsPass
from ._route_tasks import RouteTasksPass
from ._share_lengths import ShareLengthsPass
from ._split_linears import SplitLinearsPass
from ._static_reshapes import StaticReshapesPass
from ._targets import PRECISIONS, TARGETS, Measure, needs_ranges, target_passes
from ._unflatten_linears import UnflattenLinearsPass
from ._vectorize_tasks import VectorizeTasksPass, output_names

__all__ = [
    "JOINED",
    "PRECISIONS",
    "ROUTED",
    "TARGETS",
    "AbsorbProjectionsPass",
    "ConvertToHalfPass",
    "DropExpandsPass",
    "DropNanGuardsPass",
    "FoldConstantsPass",
    "FoldScalesPass",
    "FuseAttentionPass",
    "FuseSkipLayerNormPass",
    "Group",
    "JoinGroupsPass",
    "LowerOpsetPass",
    "Measure",
    "MergeCastsPass",
    "MergeReshapesPass",
    "MergeRoutesPass",
    "MergeSiblingsPass",
    "MergeTransposesPass",
    "MergeWeightsPass",
    "NameTransposedPass",
    "PushSlicesPass",
    "QuantizeDynamicPass",
    "QuantizeStaticPass",
    "ReassociateProductsPass",
    "RemoveNoOpsPass",
    "ReuseSumsPass",
    "RouteTasksPass",
    "ShareLengthsPass",
    "SplitLinearsPass",
    "StaticReshapesPass",
    "UnflattenLinearsPass",
    "VectorizeTasksPass",
    "branch_size",
    "clean_groups",
    "compile_groups",
    "final_passes",
    "graph_size",
    "needs_ranges",
    "output_names",
    "quantized_activations",
    "route_groups",
    "run_passes",
    "target_passes",
    "template_passes",
]
