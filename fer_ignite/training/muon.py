"""Muon for matrices and filters, AdamW for all other parameters, in one torch optimizer."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from fer_ignite.training.precision import resolve_precision

__all__ = ["Muon"]

# Coefficients of the quintic iteration, chosen by Jordan et al. for a steep slope at zero.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NORM_FLOOR = 1e-7


class Muon(Optimizer):
    """Momentum whose matrix is replaced by the nearest semi-orthogonal one; AdamW where a parameter has under two dimensions.

    torch's own ``torch.optim.Muon`` takes matrices only. Here a filter [out, in, height, width] counts as the matrix
    [out, in * height * width], and one optimizer with one state dict holds both rules. The update is scaled by
    0.2 * sqrt(larger side), which gives it the size of AdamW's, so both share the learning rate and the weight decay.

    Source: Jordan et al., Muon: an optimizer for hidden layers (2024); scale by Liu et al., Muon is scalable for LLM training
    (2025); AdamW by Loshchilov and Hutter (2019).

    Args:
        params: parameters or groups. A group with ``use_muon: False`` is left to AdamW, whatever its shapes.
        momentum: of Muon, with Nesterov's look ahead.
        betas, eps: of AdamW.
        ns_steps: iterations of the orthogonalisation.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": tuple(betas),
            "eps": eps,
            "ns_steps": ns_steps,
            "use_muon": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                # Decoupled weight decay (AdamW's), before the update and for both rules.
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["use_muon"] and parameter.ndim > 1:
                    self._muon(parameter, group)
                else:
                    self._adam(parameter, group)
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, momentum = state["momentum_buffer"], group["momentum"]
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum)
        matrix = update.flatten(1)
        fast = matrix.bfloat16() if _is_bf16_native(matrix.device) else matrix
        flat = orthogonalise(fast, steps=group["ns_steps"]).to(matrix.dtype)
        scale = 0.2 * max(flat.shape) ** 0.5
        parameter.add_(flat.view(update.shape), alpha=-group["lr"] * scale)

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        mean = state["exp_avg"] / (1 - beta1 ** state["step"])
        root = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, root, value=-group["lr"])


@cache
def _is_bf16_native(device: torch.device) -> bool:
    # The iteration tolerates bfloat16's rounding, as its authors show, and is faster in it where it is native.
    return resolve_precision("auto", device) == "bf16"


def orthogonalise(matrix: Tensor, *, steps: int) -> Tensor:
    """About the nearest semi-orthogonal matrix: singular values between 0.7 and 1.2, by a Newton-Schulz iteration.

    Args:
        matrix: float [rows, columns].
    """
    # The products below are rows x rows: the smaller side is cheaper.
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    # The iteration converges for singular values up to 1; the Frobenius norm bounds the largest.
    x = x / x.norm().clamp_min(_NORM_FLOOR)
    for _ in range(steps):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x if wide else x.T
