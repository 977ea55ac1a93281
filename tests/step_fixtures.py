"""Batches and a trainer with every built-in step handler, shared by tests of training and of checkpoints."""

# Dimensions: B images, C channels, H W pixels, K expressions.

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fer_ignite.data.loader import Batch
from fer_ignite.training import step
from fer_ignite.training.components import loss_terms
from fer_ignite.training.losses import build_loss
from fer_ignite.training.optim import build_optimizer, parameter_groups
from fer_ignite.training.trainer import create_trainer

CPU = torch.device("cpu")


def batch_of(
    count, *, window=None, is_first_micro=True, is_last_micro=True, seed=0, size=4, num_classes=3
):
    """A batch of random faces, as a loader gives it."""
    random = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(num_classes, (count,), generator=random)
    return Batch(
        torch.randn(count, 1, size, size, generator=random),
        nn.functional.one_hot(labels_B, num_classes).float(),
        torch.ones(count),
        count,
        count,
        window or count,
        is_first_micro,
        is_last_micro,
        np.arange(count),
        labels_B,
    )


def network(num_classes=3, size=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size * size, 8), nn.Tanh(), nn.Linear(8, num_classes)
    )


@pytest.fixture
def batches():
    """batch_of(count, ...) -> Batch"""
    return batch_of


@pytest.fixture
def steps():
    """(model=, precision=, opt=, ...) -> a trainer with every built-in step handler attached, its handles by name."""

    def make(
        *,
        model=None,
        precision="fp32",
        opt="sgd",
        lr=0.1,
        clip=None,
        clip_mode="norm",
        loss="ce",
        **settings,
    ):
        model = network() if model is None else model
        optimizer = build_optimizer(opt, parameter_groups(model, lr=lr), lr=lr, **settings)
        scaler = step.make_scaler(CPU, precision)
        trainer = create_trainer(
            model, loss_terms(build_loss(loss)), device=CPU, precision=precision
        )
        handles = {
            "backward": step.attach_backward(trainer, scaler),
            "unscale": step.attach_unscale(trainer, optimizer, scaler=scaler),
            "gradient_norm": step.attach_gradient_norm(
                trainer, model, optimizer=optimizer, scaler=scaler
            ),
        }
        if clip is not None:
            handles["clip"] = step.attach_clip(
                trainer, model, limit=clip, mode=clip_mode, optimizer=optimizer, scaler=scaler
            )
        handles["optimizer_step"] = step.attach_optimizer_step(trainer, optimizer, scaler=scaler)
        handles["zero_grad"] = step.attach_zero_grad(trainer, optimizer)
        return SimpleNamespace(
            model=model, optimizer=optimizer, scaler=scaler, trainer=trainer, handles=handles
        )

    return make
