"""The choices of how a policy runs: on which device, and in which precision."""

from typing import Literal

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]
