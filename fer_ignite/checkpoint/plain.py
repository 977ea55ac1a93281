"""Values that a checkpoint may hold: tensors and plain values of bounded depth and number."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import CheckpointError

__all__ = [
    "iter_leaves",
    "key_path",
    "operation_count",
    "state_digest",
    "tensor_problem",
    "to_plain",
]

# Far below Python's recursion limit, which a hostile file would otherwise exceed in to_plain.
_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000
_PLAIN = (type(None), bool, int, float, str)

Place = tuple[str, ...]


def to_plain(value: Any, place: Place) -> Any:
    """The same values in containers of their own, with tensors cut out of larger storages.

    Raises:
        CheckpointError: something else is in it, named by its place; ``numpy.float64`` counts as something else,
            because ``weights_only`` would not load it.
    """
    _check_depth(place)
    if type(value) in _PLAIN:
        return value
    if type(value) in (Tensor, torch.nn.Parameter):
        if not _is_dense(value) or value.is_meta:
            raise CheckpointError(
                f"{key_path(place)} is a sparse, quantized or meta tensor; a checkpoint holds dense tensors: "
                "convert it in state_dict()."
            )
        return _compact(value.detach())
    if type(value) in (list, tuple):
        return type(value)(
            to_plain(inner, (*place, str(index))) for index, inner in enumerate(value)
        )
    if type(value) in (dict, OrderedDict):
        odd = next((key for key in value if type(key) not in (str, int)), None)
        if odd is not None:
            raise CheckpointError(f"{key_path(place)} has the key {odd!r}; keys are str or int.")
        return type(value)(
            (key, to_plain(inner, (*place, str(key)))) for key, inner in value.items()
        )
    raise CheckpointError(
        f"{key_path(place)} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, dict, "
        "list, tuple, str, int, float, bool and None: convert it in state_dict()."
    )


def iter_leaves(value: Any) -> Iterator[tuple[Place, Any]]:
    """Every value that is no container, with its place.

    Raises:
        CheckpointError: too deep or too many; a file may hold itself, or a list a million times.
    """
    # No recursion, and a bounded loop: content that holds itself has no end.
    stack: list[Iterator[tuple[Place, Any]]] = [iter([((), value)])]
    for _ in range(_MAX_VALUES):
        while stack and (item := next(stack[-1], None)) is None:
            stack.pop()
        if not stack:
            return
        assert item is not None
        place, value = item
        _check_depth(place)
        if isinstance(value, (Mapping, list, tuple)):
            stack.append(_children(value, place))
        else:
            yield place, value
    raise CheckpointError(f"It holds more than {_MAX_VALUES} values.")


def operation_count(value: Any) -> int:
    """Pickle operations that ``torch.save`` writes for plain values and tensors, at most.

    Source: measured with ``pickletools.genops`` on torch 2.13, protocol 2; a tensor of n dimensions takes up to 34 + 2n.
    """
    if isinstance(value, Tensor):
        return 34 + 2 * value.ndim
    if isinstance(value, Mapping):
        # A key is written and memoised; every 1000 items are put into the container together.
        inner = sum(operation_count(key) + operation_count(item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        inner = sum(operation_count(item) for item in value)
    else:
        return 2 if isinstance(value, str) else 1
    return 7 + inner + 2 * (len(value) // 1000)


def tensor_problem(content: Any, *, file_bytes: int) -> str | None:
    """Why a loaded file's tensors can't be trusted with their shapes; None where they can."""
    for place, leaf in iter_leaves(content):
        if not isinstance(leaf, Tensor):
            continue
        if not _is_dense(leaf) or leaf.device.type != "cpu":
            return f"{key_path(place)} is not an ordinary dense tensor"
        if leaf.numel() * leaf.element_size() > file_bytes:  # a stride of 0 claims any size
            return (
                f"{key_path(place)} claims the shape {tuple(leaf.shape)}, more than the file holds"
            )
    return None


def state_digest(state: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names; plain values count by their repr.

    Args:
        state: a mapping of tensors, or any nesting of mappings, lists, tensors and plain values.
    Returns:
        64 hex digits: same weights, same digest, wherever they lie and however they were saved.
    """
    hasher = hashlib.sha256()
    for place, leaf in sorted(iter_leaves(state), key=lambda item: item[0]):
        tensor = leaf.detach().cpu().contiguous() if isinstance(leaf, Tensor) else None
        value = repr(leaf) if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
        # As JSON, so that different places or values never give the same bytes.
        hasher.update((json.dumps([*place, value]) + "\n").encode("ascii"))
        if tensor is not None:
            # NumPy has no bfloat16, hence bytes; a 0-dimensional tensor can't be viewed as such.
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def key_path(place: Place) -> str:
    """A place as people write it: ``optimizer.state.0.step``."""
    return shown(".".join(place)) if place else "The content"


def _children(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return (((*place, str(key)), inner) for key, inner in items)


def _check_depth(place: Place) -> None:
    if len(place) > _MAX_DEPTH:
        raise CheckpointError(f"{key_path(place[:4])}... is nested deeper than {_MAX_DEPTH}.")


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized


def _compact(tensor: Tensor) -> Tensor:
    # torch.save writes the whole storage behind a view; of an expanded tensor it writes less than the shape says,
    # which the reader refuses.
    if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return tensor.clone()
    return tensor
