"""Apply plans to the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from bn_ops.folding.casting import cast
from bn_ops.folding.constants import CONSTANT_IR_VERSION, Constants
from bn_ops.folding.names import FreshNames
from bn_ops.folding.plan import AddAfter, Edit, Plan, PutConstant, PutFloat

if TYPE_CHECKING:
    from bn_ops.folding.affine import Float64Array
    from bn_ops.folding.shapes import Shapes

__all__ = ["Editor"]


class Editor:
    """Changes one graph. Every method leaves it valid."""

    def __init__(self, model: ir.Model, *, constants: Constants, shapes: Shapes) -> None:
        self._graph = model.graph
        # Before IR version 4 every initializer must also be listed as an input.
        self._lists_initializers = model.ir_version < CONSTANT_IR_VERSION
        self._constants = constants
        self._shapes = shapes
        self._names = FreshNames(model)

    def apply(self, plan: Plan) -> None:
        """Apply all edits of a plan."""
        for edit in plan.edits:
            self._apply(edit)

    def drop(self, layer: ir.Node, *, keep_name: bool) -> None:
        """Remove a layer from the graph; readers of its output read its input instead.

        Args:
            layer: the BatchNormalization, which has been absorbed elsewhere.
            keep_name: give the input value the output's name, type and shape, so that readers and
                graph outputs are unchanged. Only for an input without other readers.
        """
        source, result = layer.inputs[0], layer.outputs[0]
        assert source is not None  # the layer has been read
        self._replace(result, source)
        self._graph.remove(layer, safe=True)
        if keep_name:
            self._take_identity(source, result)

    def substitute(self, layer: ir.Node, other: ir.Node) -> None:
        """Replace a layer by `other`, whose output takes its name."""
        result = other.outputs[0]
        self._replace(layer.outputs[0], result)
        self._graph.remove(layer, safe=True)
        self._take_identity(result, layer.outputs[0])

    def constant(self, hint: str, array: Float64Array, dtype: ir.DataType) -> ir.Value:
        """Create a new initializer."""
        name = self._names.take(hint)
        tensor = ir.Tensor(cast(array, dtype), dtype=dtype, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor
        )
        self._graph.register_initializer(value)
        if self._lists_initializers:
            self._graph.inputs.append(value)
        self._constants.remember(value, array)
        return value

    def insert(self, op: str, after: ir.Node, source: ir.Value, operand: ir.Value) -> ir.Node:
        """Insert `op(source, operand)` after a node, with a new name for its output."""
        name = self._names.take(f"{source.name}_{op.lower()}")
        output = ir.Value(name=name, shape=source.shape, type=source.type)
        node = ir.Node("", op, [source, operand], outputs=[output], name=name)
        self._graph.insert_after(after, node)
        self._shapes.rename(source.name, name)
        return node

    def _apply(self, edit: Edit) -> None:
        if isinstance(edit, PutConstant):
            self._put_constant(edit)
        elif isinstance(edit, PutFloat):
            edit.node.attributes.add(ir.AttrFloat32(edit.name, edit.value))
        elif isinstance(edit, AddAfter):
            self._add_after(edit)
        else:
            edit.node.op_type = "Gemm"
            edit.node.resize_inputs(3)
            edit.node.replace_input_with(2, self.constant(edit.hint, edit.array, edit.dtype))

    def _put_constant(self, edit: PutConstant) -> None:
        if edit.index >= len(edit.node.inputs):
            edit.node.resize_inputs(edit.index + 1)
        old = edit.node.inputs[edit.index]
        if old is None or not self._is_sole_reader(old):
            new = self.constant(edit.hint, edit.array, edit.dtype)
            edit.node.replace_input_with(edit.index, new)
            return
        old.const_value = ir.Tensor(cast(edit.array, edit.dtype), dtype=edit.dtype, name=old.name)
        old.shape = ir.Shape(edit.array.shape)
        self._constants.remember(old, edit.array)

    def _is_sole_reader(self, value: ir.Value) -> bool:
        """Return whether an initializer may be changed in place: one reader, not overridable."""
        if not value.is_initializer() or value.is_graph_output() or len(value.uses()) != 1:
            return False
        return not self._constants.overridable(value)

    def _add_after(self, edit: AddAfter) -> None:
        source = edit.node.outputs[0]
        operand = self.constant(edit.hint, edit.array, edit.dtype)
        readers = source.uses()
        node = self.insert("Add", edit.node, source, operand)
        result = node.outputs[0]
        for reader, index in readers:
            reader.replace_input_with(index, result)
        self._replace_outputs(source, result)
        inner = result.name
        self._take_identity(result, source)
        source.name = inner

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        for reader, index in old.uses():
            reader.replace_input_with(index, new)
        self._replace_outputs(old, new)

    def _replace_outputs(self, old: ir.Value, new: ir.Value) -> None:
        for index, value in enumerate(self._graph.outputs):
            if value is old:
                self._graph.outputs[index] = new

    def _take_identity(self, value: ir.Value, old: ir.Value) -> None:
        """Give `value` the name, type and shape of `old`, which has no readers left."""
        value.name = old.name
        value.type = old.type if old.type is not None else value.type
        value.shape = old.shape if old.shape is not None else value.shape
        value.metadata_props.update(old.metadata_props)
