"""Small ONNX models with known answers; making one skips the test where the onnx package is absent."""

import numpy as np
import pytest

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "multiple": 1}


def red_model(*, gain=1.0, offset=0.0, size=("h", "w"), squeeze=False, channels=3):
    """A model that returns gain * red + offset of the normalised image."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Slice", ["image", "zero", "one", "one"], ["red"]),
        helper.make_node("Mul", ["red", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["answer" if not squeeze else "full"]),
    ]
    if squeeze:
        nodes.append(helper.make_node("Squeeze", ["full", "one"], ["answer"]))
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "gain": np.array(gain, np.float32),
        "offset": np.array(offset, np.float32),
    }
    # Slice along axis 1: starts, ends, axes.
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, channels, *size])],
        [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


def mean_model(shape, dtype="FLOAT", *, axis=1, answer="FLOAT", outputs=("answer",), inputs=1):
    """A model that returns the mean over the channels under each name in ``outputs``; it ignores further inputs."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=types.FLOAT),
        helper.make_node("ReduceMean", ["cast"], ["mean"], axes=[axis], keepdims=1),
        *(helper.make_node("Cast", ["mean"], [name], to=getattr(types, answer)) for name in outputs),
    ]
    more = [helper.make_tensor_value_info(f"more{i}", types.FLOAT, [1, 3, 3]) for i in range(inputs - 1)]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", getattr(types, dtype), shape), *more],
        [helper.make_tensor_value_info(name, getattr(types, answer), None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 9
    return model.SerializeToString()
