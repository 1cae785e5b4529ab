"""Imports ONNX Runtime with its telemetry switched off. No other module of ours imports it.

ONNX Runtime 1.29 and later looks up a host of Microsoft, writes into the home folder and starts
threads as soon as it is imported. `ORT_DISABLE_TELEMETRY` stops all of that, if it is set before
the import. Importing `policy_server` sets it, so it holds for other libraries too that import ONNX
Runtime later, and for child processes.
"""

import os
from typing import Any

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"


def switch_telemetry_off() -> None:
    """Switches ONNX Runtime's telemetry off for this process and its children.

    A value that the user has set stays.
    """
    if not os.environ.get(TELEMETRY_OFF):
        os.environ[TELEMETRY_OFF] = "1"


def import_onnxruntime() -> Any:
    """Returns the module onnxruntime.

    Raises:
        ImportError: It is not installed.
    """
    switch_telemetry_off()
    import onnxruntime

    if os.environ[TELEMETRY_OFF] == "1":
        onnxruntime.disable_telemetry_events()  # On Windows only this call switches it off.
    return onnxruntime


def import_quantization() -> Any:
    """Returns the module onnxruntime.quantization.

    Raises:
        ImportError: It is not installed.
    """
    import_onnxruntime()
    from onnxruntime import quantization

    return quantization
