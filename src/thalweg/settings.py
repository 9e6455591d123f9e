"""Typed settings: read from `key=value` pairs, refused by name with the nearest right one."""

import difflib
import enum
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pydantic
from pydantic_core import PydanticUndefined

from thalweg.errors import UserError

LARGEST = 2**31 - 1
"""Largest whole number of a setting: counts, steps and seeds are held in 32 bits."""


def setting(
    default: Any,
    description: str,
    *,
    unit: str = "",
    quick: Any = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A field of `Settings`, with what `thalweg show` says of it.

    Args:
        default: its value under the preset "full".
        description: what it is, in a few words.
        unit: of the value, such as "K"; empty for a count or a ratio.
        quick: its value under the preset "quick"; None: the default.
        ge, gt, le, lt: bounds that are checked.
    Returns:
        what pydantic takes for the field.

    >>> class Plate(Settings):
    ...     noise: float = setting(0.5, "standard deviation of a sensor", unit="K", quick=0.1, ge=0)
    >>> Plate().noise, Plate.checked({}, where="here", quick=True).noise
    (0.5, 0.1)
    """
    extra = {"unit": unit} | ({} if quick is None else {"quick": quick})
    return pydantic.Field(default, description=description, json_schema_extra=extra, ge=ge, gt=gt, le=le, lt=lt)


@dataclass(frozen=True)
class Described:
    """What a person needs to know of one setting, as texts.

    Attributes:
        name, kind: as in `--set name=value`, and what the value is.
        default, quick: the values under the two presets.
        unit: empty if it has none.
        bounds: such as "≥ 1, < 100"; empty if there are none.
        description: what it is.
    """

    name: str
    kind: str
    default: str
    quick: str
    unit: str
    bounds: str
    description: str


class Settings(pydantic.BaseModel):
    """Base of every set of settings; give each field by `setting`, or a `pydantic.Field` with bounds and a description.

    >>> class Mine(Settings):
    ...     sensors: int = setting(12, "number of sensors", ge=1)
    >>> Mine.from_pairs(["sensors=20"]).sensors
    20
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_pairs(cls, pairs: Iterable[str]) -> Self:
        """Settings from "key=value" texts; what is not named keeps its default.

        Raises:
            UserError: no "=", an unknown or repeated key, or a value out of type or bounds.
        """
        return cls.checked(parse_pairs(pairs), where="--set")

    @classmethod
    def checked(cls, values: Mapping[str, Any], *, where: str, quick: bool = False) -> Self:
        """Settings from a dictionary, with errors in thalweg's own words.

        Args:
            values: by name; texts are converted.
            where: what the values came from, for the message.
            quick: what `values` does not name has its quick value, if it has one.
        Raises:
            UserError: an unknown key, or a value out of type or bounds.
        """
        presets = {name: _extra(field, "quick") for name, field in cls.model_fields.items()} if quick else {}
        chosen = {name: value for name, value in presets.items() if value is not None} | dict(values)
        try:
            found = cls.model_validate(chosen)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "settings"
            if first["type"] == "extra_forbidden" and not first["loc"][0]:
                raise UserError("a setting without a name", where=where, remedy="Write name=value.") from None
            if first["type"] == "extra_forbidden":
                raise UserError(f"there is no setting '{name}'", where=where, remedy=cls._nearest(name)) from None
            field = next((one for one in cls.described() if one.name == name), None)
            unit = "" if field is None or not field.unit else f", in {field.unit}"
            remedy = None if field is None else f"{name}: {field.description}{unit} (default {field.default})."
            message = f"{name}={first['input']!r}: {first['msg'][0].lower() + first['msg'][1:]}"
            raise UserError(message, where=where, remedy=remedy) from None
        for name in cls.model_fields:
            value = getattr(found, name)
            if type(value) is int and abs(value) > LARGEST:  # whatever bounds the field has or lacks
                raise UserError(f"{name}={value}: whole numbers go to {LARGEST:,} at most", where=where)
        return found

    @classmethod
    def described(cls) -> list[Described]:
        """What there is to set, in the order of the class.

        >>> class Mine(Settings):
        ...     sensors: int = setting(12, "number of sensors", quick=4, ge=1)
        >>> Mine.described()[0].bounds, Mine.described()[0].quick
        ('≥ 1', '4')
        """
        return [_described(name, field) for name, field in cls.model_fields.items()]

    def to_config(self) -> dict[str, Any]:
        """The values as a file can hold them, by name; a None that is the default is left out.

        >>> class Mine(Settings):
        ...     sensors: int = 12
        ...     batch: int | None = None
        >>> Mine().to_config()
        {'sensors': 12}
        """
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if value is not None or self._default(name) is not None}

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].get_default(call_default_factory=True)

    @classmethod
    def _nearest(cls, name: str) -> str:
        near = difflib.get_close_matches(name, cls.model_fields, n=1)
        if near:
            return f"Did you mean '{near[0]}'?"
        return f"There are {', '.join(cls.model_fields)}." if cls.model_fields else "There is none to set."


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """ "key=value" texts, by key.

    Raises:
        UserError: a text without "=", or a key given twice.

    >>> parse_pairs(["sensors=20", "noise = 0.5"])
    {'sensors': '20', 'noise': '0.5'}
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise UserError(f"a setting is written key=value, not {pair!r}", where="--set")
        if key in values:
            raise UserError(f"the setting {key!r} is given twice", where="--set")
        values[key] = value
    return values


def _extra(field: pydantic.fields.FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _described(name: str, field: pydantic.fields.FieldInfo) -> Described:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {getattr(one, key):g}" for one in field.metadata for key, sign in signs.items()
              if getattr(one, key, None) is not None]  # fmt: skip
    default, quick = _text(field.get_default(call_default_factory=True)), _extra(field, "quick")
    return Described(
        name,
        _kind(field.annotation),
        default,
        default if quick is None else _text(quick),
        _extra(field, "unit") or "",
        ", ".join(bounds),
        field.description or "",
    )


def _text(value: Any) -> str:
    if value is PydanticUndefined:
        return "must be given"
    if value is None:
        return "automatic"
    return str(value.value if isinstance(value, enum.Enum) else value)


def _kind(annotation: Any) -> str:
    """A type as one writes it: `int`, `float`, …; without the None that stands for "automatic"."""
    parts = [one for one in typing.get_args(annotation) if one is not type(None)]
    if parts and type(None) in typing.get_args(annotation):
        return " or ".join(map(_kind, parts))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(str(one.value) for one in annotation)
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
