"""Python objects as settings: networks, data sets, losses and optimizers given to ``train`` and ``build_session``."""

import copy
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from fer_ignite.config import Config, check
from fer_ignite.data.samples import SPLITS
from fer_ignite.errors import ConfigError, one_line
from fer_ignite.imports import OBJECT, register_object, registered_objects, send_problem

__all__ = [
    "Data",
    "DatasetObject",
    "ModelObject",
    "dataset_object",
    "find_objects",
    "model_name",
    "object_label",
    "own_copy",
    "require_sendable",
    "with_objects",
]

Data = Dataset[Any] | Mapping[str, Any]
_FUNCTION_OF = {
    "model": "a torch.nn.Module, or a function or class that makes one",
    "loss": "a callable (logits [B, K], targets [B, K]) -> losses [B], or a torch loss",
    "optimizer": "a function (parameter groups) -> torch.optim.Optimizer, such as functools.partial(torch.optim.SGD, lr=0.1)",
}
# Setting that holds the object's name.
_SETTING_OF = {"model": "model", "data": "data", "loss": "loss", "optimizer": "optimizer_factory"}


class ModelObject:
    """A network object as the factory that the registry of networks calls.

    Args:
        made: a network, which is trained itself and not copied (see :func:`own_copy`), or what makes one; called with ``num_classes`` and
            ``in_channels`` where it takes these.
    """

    def __init__(self, made: Any) -> None:
        self.made = made

    def __call__(self, *, num_classes: int, in_channels: int, **arguments: Any) -> Any:
        if isinstance(self.made, nn.Module):
            return self.made
        offered = {"num_classes": num_classes, "in_channels": in_channels}
        try:
            # Asked first: a TypeError of the call itself could also come from within the user's
            # function.
            takes = inspect.signature(self.made).parameters
        except (TypeError, ValueError):
            takes = {}  # type: ignore[assignment]
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
        wanted = {name: value for name, value in offered.items() if anything or name in takes}
        return self.made(**wanted, **arguments)


class DatasetObject:
    """A data set, or one per split, as what a user's ``--data module:Class`` is.

    Args:
        parts: split -> map-style data set.
        classes: names in label order; None: the data set's own attribute ``classes``, else the labels' numbers.
    """

    needs_train = False

    def __init__(self, parts: Mapping[str, Any], classes: tuple[str, ...] | None = None) -> None:
        self.parts, self.classes = dict(parts), classes

    def __call__(self, split: str) -> Any:
        return self.parts.get(split)


def dataset_object(data: Any, *, classes: str | None, split: str = "train") -> DatasetObject:
    """What ``data=`` was given, checked.

    Args:
        classes: the setting of that name: names in label order.
        split: which split a single data set is.
    Raises:
        ConfigError: it is no data set, nor a mapping of splits to data sets.
    """
    parts = data if isinstance(data, Mapping) else {split: data}
    unknown = [str(name) for name in parts if name not in SPLITS]
    if unknown or not parts:
        raise ConfigError(
            f"data has the splits {', '.join(unknown) or '(none)'}; a dict of data sets has some of train, val and test."
        )
    for name, part in parts.items():
        if part is not None and not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise ConfigError(
                f"data ({name}) is a {type(part).__name__}; give a map-style torch.utils.data.Dataset of (image, label)."
            )
    names = None if classes is None else tuple(name.strip() for name in classes.split(","))
    return DatasetObject(parts, names)


def torch_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A torch loss with ``reduction="none"``, so that it gives one value per image; anything else as it is."""
    if isinstance(loss, nn.modules.loss._Loss) and loss.reduction != "none":
        # A copy: the caller's own loss keeps its reduction.
        loss = copy.copy(loss)
        loss.reduction = "none"
    return loss


_WRAPPERS: dict[str, Callable[[Any], Any]] = {"model": ModelObject, "loss": torch_loss}


def with_objects(
    config: Config, given: Mapping[str, Any], **objects: Any
) -> tuple[Config, dict[str, Any]]:
    """The configuration and the given settings with the names of Python objects in them.

    Args:
        objects: ``model``, ``data``, ``loss``, ``optimizer``; None: as in the configuration.
    Raises:
        ConfigError: an object of another kind.
    """
    names: dict[str, str] = {}
    for kind, thing in objects.items():
        if thing is None:
            continue
        if isinstance(thing, str):
            names[_SETTING_OF[kind]] = thing
            continue
        if kind == "data":
            thing, shown = dataset_object(thing, classes=config.classes), object_label(thing)
        else:
            if not callable(thing):
                raise ConfigError(f"{kind} is a {type(thing).__name__}; give {_FUNCTION_OF[kind]}.")
            shown = object_label(thing)
            thing = _WRAPPERS.get(kind, lambda same: same)(thing)
        if isinstance(thing, ModelObject) and isinstance(thing.made, nn.Module) and config.folds:
            raise ConfigError(
                "folds trains several networks, and model is one; give a function or class that makes it."
            )
        names[_SETTING_OF[kind]] = register_object(kind, shown, thing=thing, besides=names.values())
    check(names)  # model_copy validates nothing
    return config.model_copy(update=names), {**given, **names}


def model_name(model: Any, *, besides: Collection[str | None] = ()) -> str | None:
    """The text that a setting ``model`` holds for a name, or for an object, which is registered.

    Args:
        besides: names of the other objects of the same call.
    """
    if model is None or isinstance(model, str):
        return model
    if not callable(model):
        raise ConfigError(f"model is a {type(model).__name__}; give {_FUNCTION_OF['model']}.")
    return register_object("model", object_label(model), thing=ModelObject(model), besides=besides)


def own_copy(model: nn.Module, name: str) -> nn.Module:
    """A copy of a network that was given as a module, so that loaded weights leave the caller's; another one as it is.

    Args:
        name: the setting ``model`` that it was built from.
    Raises:
        ConfigError: the module can't be copied.
    """
    given = registered_objects().get(name)
    if not isinstance(given, ModelObject) or given.made is not model:
        return model
    try:
        return copy.deepcopy(model)
    except (
        Exception
    ) as error:  # a module may hold anything, such as a lock or a tensor with a history
        raise ConfigError(
            f"model: {name.removeprefix(OBJECT)} can't be copied ({one_line(error)}); give a class or a function that makes it."
        ) from None


def object_label(thing: Any) -> str:
    """What an object is called in settings and messages: its class, or its function's name."""
    if isinstance(thing, Mapping):
        thing = next(iter(thing.values()))
    if isinstance(thing, (nn.Module, Dataset)):
        return type(thing).__name__
    name = getattr(thing, "__qualname__", None) or getattr(
        getattr(thing, "func", None), "__qualname__", type(thing).__name__
    )
    return str(name)


def find_objects(config: Config) -> dict[str, Any]:
    """The registered objects that a configuration names; they travel to other processes with the run."""
    # Found, not equal: a loss may name an object within a sum.
    named = {
        name
        for setting in _SETTING_OF.values()
        for name in re.findall(rf"{OBJECT}\w+", str(getattr(config, setting) or ""))
    }
    return {name: thing for name, thing in registered_objects().items() if name in named}


def require_sendable(objects: Mapping[str, Any]) -> None:
    """Refuses objects that can't be sent to other processes, by their names.

    Raises:
        ConfigError: naming the object and the reason.
    """
    for name, thing in objects.items():
        problem = send_problem(thing)
        if problem is not None:
            raise ConfigError(
                f"{name.removeprefix(OBJECT)} can't be sent to other processes ({problem}); define it at the top level of a module, or train in one "
                "process (nproc=1)."
            )
