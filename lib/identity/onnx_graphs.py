"""ONNX graphs of a dozen operators, read as data and computed by torch.

Gradients flow, every device serves, and neither a runtime nor a protobuf library is needed. What is not known here
is refused when the file is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.faces import wire_fields


@dataclass(frozen=True)
class Node:
    """One operator of a graph: the names of its inputs and of its output, its attributes."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """What an ONNX file holds: operators in the order of computation, constants, and the names at either end."""

    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    input: str
    output: str


class OnnxModule(nn.Module):
    """A graph of one input and one output as a torch module. Weights are buffers: they move, but do not train."""

    def __init__(self, graph: Graph):
        super().__init__()
        unknown = sorted({node.operator for node in graph.nodes} - OPERATORS.keys())
        if unknown:
            raise ValueError(
                f"the graph uses operators that are not known here: {', '.join(unknown)}; known are "
                f"{', '.join(OPERATORS)}"
            )
        self.graph = graph
        self._buffer_of = {name: f"constant{i}" for i, name in enumerate(graph.constants)}
        for name, value in graph.constants.items():
            self.register_buffer(self._buffer_of[name], torch.from_numpy(value.copy()))
        self._last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}

    @classmethod
    def read(cls, path: Path) -> OnnxModule:
        """The module of a file; a ValueError says what in it is not understood."""
        try:
            return cls(read_graph(path.read_bytes()))
        except (ValueError, IndexError, KeyError, StopIteration) as error:
            raise ValueError(f"{path} is no ONNX graph that can be read here: {error}") from error

    def forward(self, x: Tensor) -> Tensor:
        values = {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        values[self.graph.input] = x
        for i, node in enumerate(self.graph.nodes):
            inputs = [values[name] for name in node.inputs]
            values[node.output] = OPERATORS[node.operator](*inputs, **node.attributes)
            for name in node.inputs:
                if self._last_use[name] == i:  # activations take memory
                    values.pop(name, None)
        return values[self.graph.output]


def _convolution(
    x, weight, bias=None, *, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), group=1, kernel_shape=None
):
    top, left, bottom, right = pads
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, tuple(strides), 0, tuple(dilations), group)


def _batch_norm(x, gain, bias, mean, variance, *, epsilon=1e-5, momentum=0.9, spatial=1):
    return F.batch_norm(x, mean, variance, gain, bias, eps=epsilon)


def _prelu(x, slope):
    return x.clamp_min(0) + slope * x.clamp_max(0)


def _matrix_product(a, b, c, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    return alpha * (a.T if transA else a) @ (b.T if transB else b) + beta * c


def _flatten(x, *, axis=1):
    return x.reshape(x.shape[:axis].numel(), -1)


def _unchanged(x, **attributes):
    return x


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "Dropout": _unchanged,
    "Flatten": _flatten,
    "Gemm": _matrix_product,
    "Identity": _unchanged,
    "Mul": torch.mul,
    "PRelu": _prelu,
    "Sub": torch.sub,
}
"""The operators of the two networks, by their names in ONNX, in inference."""


def read_graph(content: bytes) -> Graph:
    """The graph in the bytes of an ONNX file (a protobuf message; the numbers below are the fields of onnx.proto)."""
    graph = _fields(_fields(content)[7][0])
    constants = dict(_constant(message) for message in graph[5])
    inputs = [name for message in graph[11] if (name := _text(_fields(message)[1])) not in constants]
    outputs = [_text(_fields(message)[1]) for message in graph[12]]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"expected one input and one output, found {inputs} and {outputs}")
    return Graph(tuple(map(_node, graph[1])), constants, inputs[0], outputs[0])


def _fields(message: bytes) -> defaultdict[int, list]:
    """Field number -> its values, of a protobuf message; what is not there has no values."""
    fields = defaultdict(list)
    for number, value in wire_fields(message):
        fields[number].append(value)
    return fields


def _text(values: Sequence[bytes]) -> str:
    return values[0].decode()


def _node(message: bytes) -> Node:
    fields = _fields(message)
    attributes = dict(_attribute(attribute) for attribute in fields[5])
    inputs = tuple(name.decode() for name in fields[1])
    return Node(_text(fields[4]), inputs, fields[2][0].decode(), attributes)


def _attribute(message: bytes) -> tuple[str, Any]:
    """Name and value of an attribute: of kind 1 a number, of kind 2 a whole number, of kind 7 several of those."""
    fields = _fields(message)
    name, (kind,) = _text(fields[1]), fields[20]
    if kind == 1:
        return name, float(np.frombuffer(fields[2][0], "<f4")[0])
    if kind == 2:
        return name, fields[3][0]
    if kind == 7 and all(isinstance(value, int) for value in fields[8]):
        return name, tuple(fields[8])
    raise ValueError(
        f"attribute {name} is of kind {kind}; only numbers, and lists of whole numbers, are read"
    )


def _constant(message: bytes) -> tuple[str, np.ndarray]:
    """Name and value of a tensor of floats, which ONNX stores either raw (field 9) or as numbers (field 4)."""
    fields = _fields(message)
    name, (kind,) = _text(fields[8]), fields[2]
    if kind != 1:
        raise ValueError(f"constant {name} is of kind {kind}; only 32-bit floats (kind 1) are read")
    values = np.frombuffer(b"".join(fields[9] or fields[4]), "<f4")
    return name, values.reshape(fields[1])
