"""The files of a foreign ONNX policy: the graph, the weights beside it, and a session on them."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath
from typing import Any

import onnx
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_model,
    uses_external_data,
)

from edp_robot.deploy.export import onnx_session

MIN_OPSET = 8  # the first whose Max and Min broadcast
IR_VERSIONS = (8, 10)  # every ONNX Runtime that we allow reads these


class WrapError(ValueError):
    """The policy, or what is said of it, cannot become a bundle. The message says what to do."""


def opset(model: onnx.ModelProto) -> int:
    """Returns the version of the standard operators that a model was written for."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def open_session(model: onnx.ModelProto) -> Any:
    """Returns an ONNX Runtime session of a model.

    Raises:
        WrapError: ONNX Runtime refuses the model, for example because it lacks an operator.
    """
    try:
        return onnx_session(model.SerializeToString())
    except Exception as error:  # ONNX Runtime and protobuf raise several private types
        raise WrapError(f"ONNX Runtime refused the graph: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:400]


def load_file(path: Path) -> tuple[onnx.ModelProto, str]:
    """Returns the model with its weights inside, and the sha256 of its files.

    Raises:
        WrapError: It is no ONNX file or too old a one, or its weights are missing or elsewhere.
    """
    if not path.is_file():
        raise WrapError(f"{path}: no such file; expected an ONNX policy")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own type
        raise WrapError(f"{path} is not an ONNX file: {first_line(error)}") from error
    if opset(model) < MIN_OPSET:
        raise WrapError(
            f"{path} has opset {opset(model)}, expected {MIN_OPSET} or later; export it again"
        )
    digest = hashlib.sha256(data)
    for file in _weights(model, path):
        digest.update(file.read_bytes())
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # a damaged file raises several types
        raise WrapError(f"the weights beside {path} cannot be read: {first_line(error)}") from error
    model.ir_version = min(max(model.ir_version, IR_VERSIONS[0]), IR_VERSIONS[1])
    return model, digest.hexdigest()


def _weights(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Returns the files of weights; raises WrapError where one is missing or outside the folder."""
    tensors = (tensor for tensor in model.graph.initializer if uses_external_data(tensor))
    names = sorted({ExternalDataInfo(tensor).location for tensor in tensors})
    outside = [n for n in names if PurePath(n).is_absolute() or ".." in PurePath(n).parts]
    if outside:
        raise WrapError(
            f"{path} wants weights from {outside}; expected files beside it: export it again"
        )
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise WrapError(
            f"{path} keeps its weights in {names}, of which {missing} is not beside it; copy it "
            "there, or export with the weights inside "
            "(torch.onnx.export(..., external_data=False))"
        )
    return [path.parent / name for name in names]
