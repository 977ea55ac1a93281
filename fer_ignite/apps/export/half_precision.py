"""Weights stored as fp16 and widened to fp32 before use.

What is stored loses digits, what is computed doesn't; so the file runs wherever the fp32 one does. Vectors (biases,
statistics of normalisations) stay: they are few, and rounding them costs most.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["halve_initializers", "halve_module", "halve_state", "widen_state"]


class Widened(nn.Module):
    """A parametrisation whose stored tensor is fp16 and whose value is fp32."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def halve_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with its kernels and matrices as fp16."""
    return {
        name: tensor.half() if _is_worth_it(tensor) else tensor for name, tensor in state.items()
    }


def widen_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`halve_state`, but for the digits."""
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in state.items()
    }


def halve_module(module: nn.Module) -> nn.Module:
    """A copy whose kernels and matrices are stored as fp16 and widened in its own graph."""
    module = copy.deepcopy(module)
    chosen = [
        (part, name)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if _is_worth_it(parameter.detach())
    ]
    for part, name in chosen:
        setattr(part, name, nn.Parameter(getattr(part, name).detach().half(), requires_grad=False))
        # unsafe: the library otherwise insists on one dtype on both sides.
        parametrize.register_parametrization(part, name, Widened(), unsafe=True)
    return module.requires_grad_(False)


def halve_initializers(model: Any) -> None:
    """The same for an ``onnx.ModelProto``, in place: each chosen initializer becomes fp16 behind a Cast."""
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        # A value that overflows becomes infinite, which is tested below.
        with np.errstate(over="ignore"):
            stored = values.astype(np.float16)
        # fp16 ends at 65504; a tensor that does not fit stays fp32.
        if not np.isfinite(stored).all():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}_fp16"))
        # The Cast's output takes the old name, so no other node of the graph changes.
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    # Casts first: ONNX requires the nodes of a graph in topological order.
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_worth_it(tensor: Tensor) -> bool:
    return (
        tensor.dtype == torch.float32
        and tensor.ndim >= 2
        and bool(torch.isfinite(tensor.half()).all())
    )
