"""Deployment targets: the opsets and operators that each of them loads, with the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bn_ops.errors import OptionError

__all__ = ["MIN_OPSET", "TARGETS", "OperatorTable", "Target", "check_opset"]

MIN_OPSET = 7
"""The oldest version that onnxruntime loads. Source: onnxruntime's docs/Versioning.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTable:
    """The operators of one way to load a model.

    Attributes:
        name: the way, for messages.
        operators: names of ONNX's default operators; None for all of them.
        other_domains: domain → its operators; None for all of them.
    """

    name: str
    operators: frozenset[str] | None
    other_domains: Mapping[str, frozenset[str] | None] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def has(self, domain: str, operator: str) -> bool:
        """Return whether an operator is in the table; the default domain is empty."""
        if not domain:
            return self.operators is None or operator in self.operators
        if domain not in self.other_domains:
            return False
        known = self.other_domains[domain]
        return known is None or operator in known


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A runtime or converter that loads ONNX files.

    Attributes:
        name: value of `target=`.
        title: its name in sentences, with the version that the table describes.
        opsets: first and last version of the default operator set.
        tables: the ways to load a model; one of them must have every operator of the model.
        source: where opsets and operators are documented.
        advice: what else to do about an operator that is missing.
    """

    name: str
    title: str
    opsets: tuple[int, int]
    tables: tuple[OperatorTable, ...]
    source: str
    advice: str


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TENSORRT = _names("""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
    Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish
    Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RMSNormalization RNN RoiAlign
    RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
    Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
""")

# Of the operators that OpenVINO supports "only in certain patterns", none is listed.
_OPENVINO = _names("""
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
    CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv
    ConvInteger ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish
    Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax Loop LpNormalization MatMul MatMulInteger Max MaxPool MaxRoiPool
    Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
    NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
    RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
    Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split
    SplitToSequence Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique
    Unsqueeze Upsample Where Xor
""")

_OPENVINO_MICROSOFT = _names("""
    Attention BiasAdd BiasGelu BifurcationDetector DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedConv FusedGemm FusedMatMul GatherND Gelu GroupNorm
    GroupQueryAttention MatMulIntegerToFloat MatMulNBits Pad QLinearAdd QLinearAveragePool
    QLinearConcat QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax
    QLinearWhere QuantizeLinear QuickGelu Range RotaryEmbedding SimplifiedLayerNormalization
    SkipLayerNormalization SkipSimplifiedLayerNormalization Trilu
""")

_RKNN = _names("""
    Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape
    Conv ConvTranspose Cos DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand
    EyeLike Flatten Floor Gather GatherElements Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GRU HardSigmoid HardSwish Identity If InstanceNormalization LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LRN LSTM MatMul Max MaxPool MaxRoiPool
    MaxUnpool MeanVarianceNormalization Min Mish Mod Mul Pad Pow PRelu QuantizeLinear ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape Resize ReverseSequence RoiAlign ScatterND Shape
    Sigmoid Sin Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Tanh Tile Transpose
    Unsqueeze Where
""")

_COREML_PROGRAM = _names("""
    Add ArgMax AveragePool Cast Ceil Clip Concat Conv ConvTranspose Cos DepthToSpace Div Elu Erf Exp
    GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid
    Identity InstanceNormalization LayerNormalization LeakyRelu MatMul Max MaxPool Mul PRelu Pow
    Range Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Resize Round Shape Sigmoid Sin
    Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze
""")

_COREML_NETWORK = _names("""
    Add ArgMax AveragePool BatchNormalization Cast Clip Concat Conv DepthToSpace Div Flatten Gather
    Gemm GlobalAveragePool GlobalMaxPool LRN LeakyRelu MatMul MaxPool Mul PRelu Pad Pow Reciprocal
    ReduceSum Relu Reshape Resize Shape Sigmoid Slice Sqrt Squeeze Sub Tanh Transpose
""")

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="onnxruntime",
                title="onnxruntime (1.18 and newer)",
                # 1.18 implements opset 21; every release loads opsets from 7 on.
                opsets=(7, 21),
                tables=(
                    OperatorTable(
                        name="onnxruntime",
                        operators=None,
                        other_domains=MappingProxyType({"ai.onnx.ml": None, "com.microsoft": None}),
                    ),
                ),
                source="https://onnxruntime.ai/docs/reference/compatibility.html",
                advice="register the operator's library with onnxruntime and omit target=",
            ),
            Target(
                name="tensorrt",
                title="TensorRT 10.15",
                opsets=(9, 24),
                tables=(OperatorTable(name="TensorRT", operators=_TENSORRT),),
                source="https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
                advice="write a TensorRT plugin for the operator and omit target=",
            ),
            Target(
                name="openvino",
                title="OpenVINO 2025",
                # The newest version of an operator in the table is 23; the oldest in use is 1.
                opsets=(7, 23),
                tables=(
                    OperatorTable(
                        name="OpenVINO",
                        operators=_OPENVINO,
                        other_domains=MappingProxyType(
                            {
                                "com.microsoft": _OPENVINO_MICROSOFT,
                                "ai.onnx.ml": frozenset({"Normalizer"}),
                            }
                        ),
                    ),
                ),
                source=(
                    "https://github.com/openvinotoolkit/openvino/blob/master/src/frontends/onnx/"
                    "docs/supported_ops.md"
                ),
                advice="write an OpenVINO extension for the operator and omit target=",
            ),
            Target(
                name="rknn",
                title="RKNN-Toolkit2 2.1",
                # Source of the first version: the toolkit's CHANGELOG for 1.6.0.
                opsets=(12, 19),
                tables=(OperatorTable(name="RKNN-Toolkit2", operators=_RKNN),),
                source=(
                    "https://github.com/airockchip/rknn-toolkit2/blob/master/doc/"
                    "RKNNToolKit2_OP_Support-v2.1.0.md"
                ),
                advice="register a custom operator with RKNN-Toolkit2 and omit target=",
            ),
            Target(
                name="coreml",
                title="onnxruntime's Core ML execution provider",
                # Source: GetMaxSupportedOpSet in coreml/builders/impl/base_op_builder.h.
                opsets=(7, 20),
                tables=(
                    OperatorTable(name="an ML Program", operators=_COREML_PROGRAM),
                    OperatorTable(name="a Core ML NeuralNetwork", operators=_COREML_NETWORK),
                ),
                source=(
                    "https://onnxruntime.ai/docs/execution-providers/"
                    "CoreML-ExecutionProvider.html#supported-operators"
                ),
                advice='use target="onnxruntime": it runs such an operator on the CPU',
            ),
        )
    }
)
"""The targets by name. An operator in a table may have restrictions, which the source states."""


def check_opset(opset: object, target: str | None) -> None:
    """Check a requested opset and target.

    Args:
        opset: version of ONNX's default operator set, or None.
        target: key of `TARGETS`, or None.

    Raises:
        OptionError: an unknown target, or an opset that is not a number or that it does not load.
    """
    if target is not None and target not in TARGETS:
        raise OptionError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
    if opset is None:
        return
    if isinstance(opset, bool) or not isinstance(opset, int):
        raise OptionError(f"opset takes a whole number such as 17, got {opset!r}")
    if target is None:
        if opset < MIN_OPSET:
            raise OptionError(f"opset is {opset}; the first that is supported is {MIN_OPSET}")
        return
    first, last = TARGETS[target].opsets
    if not first <= opset <= last:
        raise OptionError(
            f"opset is {opset}; {TARGETS[target].title} takes opsets {first} to {last}"
        )
