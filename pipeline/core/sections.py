"""Typed sections of a YAML file: one base of their models, and one line for what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.secrets import masked
from pipeline.core.settings import SEEDS
from pipeline.errors import InputError, nearest

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Section(BaseModel):
    """Base of all sections: no unknown key, no silent conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=True)


Model = TypeVar("Model", bound=Section)


def checked(model: type[Model], content: Any, where: str, key: str = "") -> Model:
    """Return `content` as a `model`.

    Parameters
    ----------
    where
        The file, for the message.
    key
        Where in the file `content` lies, for example ``datasets.flights``.

    Raises
    ------
    InputError
        A key is unknown (the nearest is told), missing, or has a value of the wrong type or range.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(model, error, key)}") from error


WANTED = {  # pydantic's kinds of errors in our words
    "too_short": "needs at least {min_length}",
    "too_long": "needs at most {max_length}",
    "string_pattern_mismatch": "needs text of the form {pattern}",
    "greater_than_equal": "needs a number of at least {ge}",
    "greater_than": "needs a number above {gt}",
    "less_than_equal": "needs a number of at most {le}",
    "less_than": "needs a number below {lt}",
    "int_type": "needs a whole number",
    "float_type": "needs a number",
    "finite_number": "needs a finite number",
    "string_type": "needs text",
    "list_type": "needs a list",
    "dict_type": "needs keys with values",
    "model_type": "needs keys with values",
    "value_error": "{error}",
}


def _explain(model: type[Section], error: ValidationError, key: str) -> str:
    """Turn pydantic's first complaint into ``key: problem``, with the nearest valid key for an unknown one."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]  # often why another is missing
    first = (unknown or problems)[0]
    keys = [str(part) for part in first["loc"] if part != "[key]"]
    path = ".".join([*([key] if key else []), *keys]) or "content"
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key '{keys[-1]}'{nearest(keys[-1], _known_keys(model, keys[:-1]))}"
    if first["type"] == "missing":
        return f"{path}: this key is missing"
    given = first.get("input")
    value = masked(repr(given))
    problem = WANTED[first["type"]].format(**first.get("ctx", {})) if first["type"] in WANTED else first["msg"]
    if first["type"] == "value_error" and isinstance(given, dict):  # of keys that do not go together
        return f"{path}: {problem}"
    return f"{path}: {problem}, not {value if len(value) <= 60 else f'{value[:57]}...'}"


def _known_keys(model: type[BaseModel], keys: list[str]) -> Iterable[str]:
    """Names of the fields that the section at `keys` has."""
    for position, key in enumerate(keys):
        field = next((f for name, f in model.model_fields.items() if key in (name, f.alias)), None)
        if field is None:
            return []
        nested = list(_model_types(field.annotation))
        if not nested:
            return []
        skip = 1 if "dict" in str(field.annotation) else 0
        return _known_keys(nested[0], keys[position + 1 + skip :])
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_types(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _model_types(part)
