"""Bounds of the softmax temperature; imports no torch."""

__all__ = ["TEMPERATURES", "usable_temperature"]

# Lowest and highest temperature that is fitted, or taken from a file. Far outside of them the softmax of logits / T is uniform
# or one-hot in float32, whatever the logits are.
TEMPERATURES = (0.05, 20.0)


def usable_temperature(value: object) -> bool:
    """Whether a stored value is a number within ``TEMPERATURES``."""
    low, high = TEMPERATURES
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
