"""An exported graph without what tracing left in it: what the exporter does by default, with the rules our graphs need.

The default rules compare every two ``Slice`` nodes at every node of the graph, to join them into a ``Split``. None of
our graphs gains by it, and under a profiler it was more than half of the export of a segmentor with ViT-B.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

RULES = (
    # What changes nothing.
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    # Two steps that are one.
    rules.cast_cast_rule,
    rules.reshape_reshape_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.successive_clip_rule,
    rules.successive_clip_relu_rule,
    rules.successive_relu_clip_rule,
    rules.successive_relu_rule,
    # Sizes and parameters that are known.
    rules.materialize_reshape_shape_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_conv_transpose_rule,
    rules.remove_optional_bias_from_gemm_rule,
)


class FoldConstants(ir.passes.InPlacePass):
    """Compute what depends on no input."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return optimizer.fold_constants_ir(model, onnx_shape_inference=True)


def simplify(model: ir.Model) -> None:
    """Fold constants, apply :data:`RULES` and drop what nothing reads any more, in place.

    Args:
        model: as PyTorch's exporter gives it unoptimised.
    """
    ir.passes.Sequential(
        passes.InlinePass(),
        ir.passes.PassManager(
            [
                FoldConstants(),
                RewritePass(RULES),
                passes.RemoveUnusedNodesPass(),
                passes.RemoveUnusedFunctionsPass(),
                passes.RemoveUnusedOpsetsPass(),
            ],
            steps=2,
            early_stop=True,
        ),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)
