"""Typed settings: read from `key=value` pairs, refused by name with the nearest right one."""

import difflib
from collections.abc import Iterable
from typing import Any, Self

import pydantic

from thalweg.errors import UserError


class Settings(pydantic.BaseModel):
    """Base of every set of settings; give each field a `pydantic.Field` with bounds and a description.

    >>> class Mine(Settings):
    ...     sensors: int = pydantic.Field(12, ge=1, description="number of sensors")
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
        values: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UserError(f"a setting is written key=value, not {pair!r}", where="--set")
            if key in values:
                raise UserError(f"the setting {key!r} is given twice", where="--set")
            values[key.strip()] = value.strip()
        return cls.checked(values, where="--set")

    @classmethod
    def checked(cls, values: dict[str, Any], *, where: str) -> Self:
        """Settings from a dictionary, with errors in thalweg's own words.

        Args:
            values: by name; texts are converted.
            where: what the values came from, for the message.
        Raises:
            UserError: an unknown key, or a value out of type or bounds.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "settings"
            if first["type"] == "extra_forbidden":
                near = difflib.get_close_matches(name, cls.model_fields, n=1)
                remedy = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(cls.model_fields)}."
                raise UserError(f"there is no setting '{name}'", where=where, remedy=remedy) from None
            field = cls.model_fields.get(name)
            remedy = None if field is None else f"{name}: {field.description} (default {field.default})."
            message = f"{name}={first['input']!r}: {first['msg'][0].lower() + first['msg'][1:]}"
            raise UserError(message, where=where, remedy=remedy) from None
