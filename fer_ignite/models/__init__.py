"""Networks by name, initial weights, parameter and FLOP counts."""

from fer_ignite.models.heads import head_prefixes
from fer_ignite.models.initial_weights import WeightsReport, initialise_from
from fer_ignite.models.registry import available_models, build_model
from fer_ignite.models.summary import describe_groups, flops, parameter_count

__all__ = [
    "WeightsReport",
    "available_models",
    "build_model",
    "describe_groups",
    "flops",
    "head_prefixes",
    "initialise_from",
    "parameter_count",
]
