"""Declaration of a setting, the types of settings, and the texts that they are read from."""

import itertools
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fer_ignite.imports import split_names

__all__ = [
    "Floats",
    "Integers",
    "Names",
    "Seconds",
    "SettingsGroup",
    "join_sources",
    "parse_duration",
    "parse_image_sizes",
    "parse_yaml",
    "read_mapping",
    "setting",
    "split_text",
]


def parse_duration(value: Any) -> Any:
    """Seconds from ``90``, ``"90s"``, ``"15m"``, ``"1h30m"``; anything else is left for the validation to refuse."""
    if not isinstance(value, str):
        return value
    seconds, number = 0.0, ""
    try:
        for character in value.strip():
            if character.isdecimal() or character == ".":
                number += character
            elif character in "hms" and number:
                seconds += float(number) * {"h": 3600, "m": 60, "s": 1}[character]
                number = ""
            else:
                return value
        return seconds + float(number or 0)
    except ValueError:  # 1.2.3
        return value


def join_sources(value: Any) -> Any:
    """Several data sets as one text; one is left as it is.

    Raises:
        ValueError: one of several is a path with a comma, which would be taken for several data sets.
    """
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        for part in value if len(value) > 1 else ():
            if "," in part and split_names(part) == (part,):
                raise ValueError(
                    f"needs several data sets without commas in their names, and {part!r} has one; rename it, or name a link to it"
                )
        return ",".join(value)
    return value


def split_text(value: Any) -> Any:
    """A tuple out of a text with commas, or of one number; a list becomes a tuple, anything else is left as it is."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def parse_image_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """``(side in px, share of the run at which it ends)`` out of ``32:0.5,40:0.8,48``; the last share is 1.

    Raises:
        ValueError: another form, shares that do not rise, or sides out of 16 to 1024.
    """
    form = "needs SIDE:SHARE,...,SIDE with rising shares between 0 and 1 and sides from 16 to 1024 px, e.g. 32:0.5,40:0.8,48"
    steps = []
    entries = text.split(",")
    try:
        for entry in entries[:-1]:
            side, share = entry.split(":")
            steps.append((int(side), float(share)))
        steps.append((int(entries[-1]), 1.0))
    except ValueError:
        raise ValueError(form) from None
    shares = [0.0, *(share for _, share in steps)]
    sides_fit = all(16 <= side <= 1024 for side, _ in steps)  # as image_size has it
    if not sides_fit or not all(a < b for a, b in itertools.pairwise(shares)):
        raise ValueError(form)
    return tuple(steps)


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's own takes the last of several equal keys."""

    # As it is composed: later, << has put other mappings' keys into it, which may well be overridden.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The node of a mapping as it stands in the text.

        Raises:
            yaml.composer.ComposerError: a key stands twice in it.
        """
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"{key.value!r} stands twice; keep one of them", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """The plain values in YAML text.

    Raises:
        ValueError: it is not YAML, names a key twice, holds an impossible date, or is nested too deeply; with the parser's reason.
    """
    try:
        # An impossible date (2024-02-31) raises a plain ValueError, which passes as it is.
        return yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_mapping(value: Any) -> Any:
    """A mapping out of YAML text; anything else is left as it is."""
    try:
        return parse_yaml(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("needs to be a mapping in YAML, e.g. '{widths: [32, 64]}'") from None


Names = Annotated[tuple[str, ...], BeforeValidator(split_text)]
Integers = Annotated[tuple[int, ...], BeforeValidator(split_text)]
Floats = Annotated[tuple[float, ...], BeforeValidator(split_text)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]


def setting(
    default: Any,
    text: str,
    *,
    unit: str = "",
    structural: bool = False,
    repeat: bool = False,
    **bounds: Any,
) -> Any:
    """A field of a settings group.

    Args:
        text: the help of flag and schema.
        structural: a resumed run with another value would be another run.
        repeat: the flag may be given several times.
        bounds: pydantic's ``ge``, ``gt``, ``le``, ``lt``, ``min_length``.
    """
    # pydantic's place for facts of one's own; json_schema() takes them out again.
    extra: dict[str, Any] = {"unit": unit, "structural": structural, "repeat": repeat}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class SettingsGroup(BaseModel):
    """Base of the groups: frozen, every value checked, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # pydantic trusts defaults otherwise, also one outside of its own range.
        validate_default=True,
        # Infinity satisfies a lower bound, and settings such as save_minutes have no upper one.
        allow_inf_nan=False,
        protected_namespaces=(),  # pydantic before 2.10 keeps model_ for itself; model_args is ours
    )
