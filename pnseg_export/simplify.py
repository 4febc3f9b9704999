"""An exported graph without what tracing left in it: what the exporter does by default, with the rules our graphs need.

The default rules compare every two ``Slice`` nodes at every node of the graph, to join them into a ``Split``. None of
our graphs gains by it, and under a profiler it was more than half of the export of a segmentor with ViT-B.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    materialize_reshape_shape_rule,
    remove_optional_bias_from_conv_rule,
    reshape_reshape_rule,
    squeeze_reshape_1d_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
)

RULES = (
    materialize_reshape_shape_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
    unsqueeze_unsqueeze_rule,
    squeeze_reshape_1d_rule,
    fuse_batchnorm_into_conv_rule,
    remove_optional_bias_from_conv_rule,
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
        common.InlinePass(),
        ir.passes.PassManager(
            [
                FoldConstants(),
                RewritePass(RULES),
                common.RemoveUnusedNodesPass(),
                common.RemoveUnusedFunctionsPass(),
                common.RemoveUnusedOpsetsPass(),
            ],
            steps=2,
            early_stop=True,
        ),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
