"""torch still has all that the engine uses of its insides."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from edp_robot.engine import Adam

PRIVATE = {
    "torch.utils._python_dispatch.TorchDispatchMode": lambda: TorchDispatchMode,
    "torch.overrides.TorchFunctionMode": lambda: TorchFunctionMode,
    "OpOverload._op": lambda: torch.ops.aten.add.out._op,
    "OpOverload._schema.is_mutable": lambda: torch.ops.aten.add_.Tensor._schema.is_mutable,
    "Argument.alias_info.is_write": lambda: argument(0).alias_info.is_write,
    "Argument.is_out": lambda: torch.ops.aten.add.out._schema.arguments[-1].is_out,
    "OpOverload._overloadpacket": lambda: torch.ops.aten.add.out._overloadpacket.overloads(),
    "OpOverload.namespace": lambda: torch.ops.aten.add.out.namespace == "aten",
    "torch.Tag.nondeterministic_seeded": lambda: tagged("randn", "nondeterministic_seeded"),
    "torch.Tag.data_dependent_output": lambda: tagged("equal", "data_dependent_output"),
    "torch.Tag.dynamic_output_shape": lambda: tagged("nonzero", "dynamic_output_shape"),
    "aten.lift_fresh": lambda: torch.ops.aten.lift_fresh.default,
    "UntypedStorage._cdata": lambda: torch.ones(1).untyped_storage()._cdata,
    "UntypedStorage.resizable": lambda: torch.ones(1).untyped_storage().resizable(),
    "numpy's memory is not resizable": lambda: not shared_with_numpy().resizable(),
    "torch._neg_view": lambda: torch._neg_view(torch.ones(1)).is_neg(),
    "torch._foreach_lerp_": lambda: torch._foreach_lerp_,
    "torch._C._nn": lambda: torch._C._nn.silu,
    "torch._C.TensorBase": lambda: torch._C.TensorBase.mul_,
    "fused Adam on a CPU": lambda: Adam([nn.Parameter(torch.ones(1))], 0.1).defaults["fused"],
}


def argument(i):
    return torch.ops.aten.add_.Tensor._schema.arguments[i]


def tagged(name, tag):
    packet = torch.ops.aten.__getattr__(name)
    return torch.Tag.__members__[tag] in packet.default.tags


def shared_with_numpy():
    return torch.from_numpy(np.ones(2)).untyped_storage()


@pytest.mark.parametrize("name", PRIVATE)
def test_torch_has_what_the_engine_uses(name):
    advice = (
        f"torch {torch.__version__} has no {name}, which edp_robot/engine uses. Until the engine "
        "is changed, keep the torch of constraints.txt, or give `Recorded` recordable=False: "
        "grad_steps then run plainly, with the same results."
    )
    try:
        found = PRIVATE[name]()
    except (AttributeError, ImportError, KeyError, RuntimeError) as error:
        pytest.fail(f"{advice} ({error!r})")
    assert found, advice
