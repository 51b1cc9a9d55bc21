"""Writes small ONNX files, field by field of onnx.proto: an independent account of what the reader reads."""

from __future__ import annotations

import struct

import numpy as np


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first."""
    content = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        content.append(low | (0x80 if number else 0))
        if not number:
            return bytes(content)


def field(number: int, value: int | float | bytes | str) -> bytes:
    """A field of a message: a whole number, a 32-bit float, or something of a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: np.ndarray, raw: bool = True, kind: int = 1) -> bytes:
    """TensorProto of floats, stored raw or as numbers."""
    dims = b"".join(field(1, side) for side in value.shape)
    content = value.astype("<f4").tobytes()
    return dims + field(2, kind) + field(8, name) + field(9 if raw else 4, content)


def attribute(name: str, value: int | float | list[int] | str) -> bytes:
    """AttributeProto: a whole number, a float, several whole numbers, or a text."""
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    return field(1, name) + b"".join(field(8, item) for item in value) + field(20, 7)


def node(operator: str, inputs: list[str], output: str, **attributes) -> bytes:
    """NodeProto."""
    return (
        b"".join(field(1, name) for name in inputs)
        + field(2, output)
        + field(4, operator)
        + b"".join(field(5, attribute(name, value)) for name, value in attributes.items())
    )


def model(nodes: list[bytes], constants: list[bytes], inputs: list[str], outputs: list[str]) -> bytes:
    """ModelProto with its graph, between fields that a reader has to pass over."""
    graph = (
        b"".join(field(1, one) for one in nodes)
        + field(2, "tiny")
        + b"".join(field(5, one) for one in constants)
        + b"".join(field(11, field(1, name)) for name in inputs)
        + b"".join(field(12, field(1, name)) for name in outputs)
    )
    return field(1, 7) + field(2, "by hand") + field(7, graph) + field(8, field(2, 11))
