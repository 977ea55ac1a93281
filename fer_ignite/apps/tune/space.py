"""Search space: a range or choices per setting, validated before the start."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from fer_ignite.config import READING_SETTINGS, Config, check, field_facts, read_yaml
from fer_ignite.errors import ConfigError

__all__ = ["Dimension", "read_space"]

# Settings that say what is judged, how, or for how long: values found under different ones can't be compared.
_FIXED = frozenset(
    {
        "data",
        "votes",
        "vote_mode",
        "classes",
        "split",
        "val_fraction",
        "split_seed",
        "folds",
        "fold",
        "bad_images",
        *READING_SETTINGS,
        "cache",
        "workers",
        "monitor",
        "monitor_mode",
        "score_test",
        "tta",
        "seed",
        "deterministic",
        "max_time",
        "fast_dev_run",
        "handlers",
        "eval_batch_size",
        "nonfinite_patience",
    }
)
_KINDS = ("float", "log", "int", "categorical")
_EXAMPLE = "write e.g. lr: {log: [0.0003, 0.03]}, rotate: {float: [0, 30]}, epochs: {int: [8, 24]} or opt: [adamw, sgd]"


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One setting of a space.

    Args:
        kind: float, int or categorical.
        low, high: both are allowed values.
        step: between values; None for any float, every int.
        log: drawn evenly by ratio.
        choices: of a categorical one.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """The value that Optuna's trial draws."""
        if self.kind == "float":
            return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        if self.kind == "int":
            return trial.suggest_int(
                self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log
            )
        labels = [_label(choice) for choice in self.choices]
        return self.choices[labels.index(trial.suggest_categorical(self.name, labels))]

    def plain(self) -> dict[str, Any]:
        """As plain values, for telling two spaces apart."""
        return {**asdict(self), "choices": list(self.choices)}


def read_space(path: str, *, given: Mapping[str, Any]) -> list[Dimension]:
    """The settings in a YAML file and what is tried for them.

        lr: {log: [0.0003, 0.03]}              # a float, drawn evenly by ratio
        rotate: {float: [0, 30], step: 5}      # step: optional
        epochs: {int: [8, 24]}                 # log: true is possible
        opt: [adamw, sgd]                      # or {categorical: [adamw, sgd]}

    Args:
        given: settings that are fixed for the whole search.
    Raises:
        ConfigError: no such file, a name that is no setting, a range outside the setting's own, or a setting that is also given.
    """
    if not Path(path).exists():
        raise ConfigError(
            f"there is no file {path} with settings to try; {_EXAMPLE}, one per line."
        )
    entries = read_yaml(path)
    if not entries:
        raise ConfigError(f"{path} holds no settings to try; {_EXAMPLE}.")
    space = []
    for name, entry in entries.items():
        _require_tunable(path, name, given=given)
        dimension = _dimension(f"{path}: {name}", name, entry=entry)
        for value in dimension.choices or (dimension.low, dimension.high):
            _require_allowed(
                f"{path}: {name}", name, value=int(value) if dimension.kind == "int" else value
            )
        space.append(dimension)
    return space


def _require_tunable(path: str, name: str, *, given: Mapping[str, Any]) -> None:
    if name not in Config.model_fields:
        try:
            # For its sentence, which names the nearest setting.
            check({name: None})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    if name in _FIXED or field_facts(name)["group"] in ("Output", "Launch"):
        flag = "--" + name.replace("_", "-")
        raise ConfigError(
            f"{path}: {name} sets what is compared or how it is run, so it is the same in all trials; set it with {flag}."
        )
    if name in given:
        raise ConfigError(
            f"{path}: {name} is tried there and also set to {given[name]!r}; leave one of them out."
        )


def _dimension(where: str, name: str, *, entry: Any) -> Dimension:
    entry = {"categorical": entry} if isinstance(entry, list) else entry
    kinds = [
        kind
        for kind in _KINDS
        if isinstance(entry, dict) and kind in entry and not isinstance(entry[kind], bool)
    ]
    if len(kinds) != 1 or set(entry) - {kinds[0], "step", "log"}:
        raise ConfigError(f"{where}: got {entry!r}; {_EXAMPLE}.")
    kind = kinds[0]
    values = entry[kind]
    if kind == "categorical":
        if not isinstance(values, list) or len(values) < 2 or len(entry) > 1:
            raise ConfigError(
                f"{where}: got {entry!r}; categorical needs a list of two choices or more, and nothing else."
            )
        return Dimension(name=name, kind=kind, choices=tuple(values))
    return _range(where, name, kind=kind, entry=entry)


def _range(where: str, name: str, *, kind: str, entry: Mapping[str, Any]) -> Dimension:
    values, log = entry[kind], kind == "log" or entry.get("log") is True
    if not isinstance(values, list) or len(values) != 2:
        raise ConfigError(
            f"{where}: {kind} is {values!r}; it needs two numbers, [lowest, highest]."
        )
    low, high = (_number(where, value) for value in values)
    step = None if entry.get("step") is None else _number(where, entry["step"])
    if not low < high or (step is not None and not 0 < step <= high - low):
        raise ConfigError(
            f"{where}: got {dict(entry)!r}; the first number must be below the second, and a step fit between them."
        )
    if log and (low <= 0 or step is not None):
        raise ConfigError(
            f"{where}: got {dict(entry)!r}; a logarithmic range begins above 0 and has no step."
        )
    takes = _types(Config.model_fields[name].annotation)
    whole = all(value == int(value) for value in (low, high, step or 1))
    if kind == "int" and not whole:
        raise ConfigError(f"{where}: got {dict(entry)!r}; int needs whole numbers.")
    if step is not None and (left := _beyond_last_step(low, high, step=step)):
        raise ConfigError(
            f"{where}: got {dict(entry)!r}; steps of {step:g} from {low:g} reach {high - left:g} and not {high:g}: end the range "
            "there, or name a step that divides it."
        )
    if not takes & {int, float} or (kind != "int" and float not in takes):
        needed = "int: [lowest, highest]" if int in takes else "a list of choices"
        raise ConfigError(
            f"{where}: this setting takes no {'number' if not takes & {int, float} else 'fraction'}; give {needed}."
        )
    return Dimension(
        name=name, kind="int" if kind == "int" else "float", low=low, high=high, step=step, log=log
    )


def _beyond_last_step(low: float, high: float, *, step: float) -> float:
    """How far the range goes beyond the last value that steps from ``low`` reach."""
    # In decimals, as written: in binary 0.1 doesn't divide 0.3.
    low_d, high_d, step_d = (Decimal(str(value)) for value in (low, high, step))
    return float((high_d - low_d) % step_d)


def _number(where: str, value: Any) -> float:
    # YAML 1.1 takes 1e-3 for a text, for want of a point.
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: {value!r} is no finite number.") from None
    return number


def _types(annotation: Any) -> set[Any]:
    """Which numbers an annotation takes: int, float, None with either, or neither."""
    options = get_args(annotation)
    return (set(options) if type(None) in options else {annotation}) & {int, float}


def _require_allowed(where: str, name: str, *, value: Any) -> None:
    """The setting's own range; whether settings fit together depends on the trial."""
    try:
        Config(**{name: value})
    except ValidationError as error:
        for problem in error.errors():
            # A problem without a place is about two settings that don't go together.
            if problem["loc"]:
                message = (
                    problem["msg"]
                    .removeprefix("Value error, ")
                    .replace("Input should be", "needs to be")
                    .rstrip(".")
                )
                raise ConfigError(f"{where}: tries {value!r}, {message}.") from None


def _label(choice: Any) -> Any:
    """What Optuna stores: plain values as they are, lists and mappings as YAML."""
    if choice is None or isinstance(choice, (bool, int, float, str)):
        return choice
    return yaml.safe_dump(choice, default_flow_style=True).strip()
