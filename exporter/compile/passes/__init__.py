"""The graph passes, one in each file. Their order is defined in exporter/compile/pipeline.py."""

from exporter.compile.passes.absorb_projections import AbsorbProjectionsPass
from exporter.compile.passes.convert_to_half import ConvertToHalfPass
from exporter.compile.passes.drop_expands import DropExpandsPass
from exporter.compile.passes.drop_identities import DropIdentitiesPass
from exporter.compile.passes.drop_nan_guards import DropNanGuardsPass
from exporter.compile.passes.fold_constants import FoldConstantsPass
from exporter.compile.passes.fold_scales import FoldScalesPass
from exporter.compile.passes.fuse_attention import FuseAttentionPass
from exporter.compile.passes.fuse_skip_layer_norm import FuseSkipLayerNormPass
from exporter.compile.passes.lower_opset import LowerOpsetPass
from exporter.compile.passes.measure_lengths import MeasureLengthsPass
from exporter.compile.passes.merge_casts import MergeCastsPass
from exporter.compile.passes.merge_reshapes import MergeReshapesPass
from exporter.compile.passes.merge_siblings import MergeSiblingsPass
from exporter.compile.passes.merge_transposes import MergeTransposesPass
from exporter.compile.passes.merge_weights import MergeWeightsPass
from exporter.compile.passes.move_scales import MoveScalesPass
from exporter.compile.passes.name_transposed import NameTransposedPass
from exporter.compile.passes.push_slices import PushSlicesPass
from exporter.compile.passes.quantize_dynamic import QuantizeDynamicPass
from exporter.compile.passes.quantize_rows import QuantizeRowsPass
from exporter.compile.passes.quantize_static import QuantizeStaticPass
from exporter.compile.passes.reassociate_products import ReassociateProductsPass
from exporter.compile.passes.remove_no_ops import RemoveNoOpsPass
from exporter.compile.passes.reuse_sums import ReuseSumsPass
from exporter.compile.passes.shapes_on_device import ShapesOnDevicePass
from exporter.compile.passes.share_lengths import ShareLengthsPass
from exporter.compile.passes.split_linears import SplitLinearsPass
from exporter.compile.passes.static_reshapes import StaticReshapesPass
from exporter.compile.passes.unflatten_linears import UnflattenLinearsPass

__all__ = [
    "AbsorbProjectionsPass",
    "ConvertToHalfPass",
    "DropExpandsPass",
    "DropIdentitiesPass",
    "DropNanGuardsPass",
    "FoldConstantsPass",
    "FoldScalesPass",
    "FuseAttentionPass",
    "FuseSkipLayerNormPass",
    "LowerOpsetPass",
    "MeasureLengthsPass",
    "MergeCastsPass",
    "MergeReshapesPass",
    "MergeSiblingsPass",
    "MergeTransposesPass",
    "MergeWeightsPass",
    "MoveScalesPass",
    "NameTransposedPass",
    "PushSlicesPass",
    "QuantizeDynamicPass",
    "QuantizeRowsPass",
    "QuantizeStaticPass",
    "ReassociateProductsPass",
    "RemoveNoOpsPass",
    "ReuseSumsPass",
    "ShapesOnDevicePass",
    "ShareLengthsPass",
    "SplitLinearsPass",
    "StaticReshapesPass",
    "UnflattenLinearsPass",
]
