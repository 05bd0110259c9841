"""A method's settings, declared once: fields of its class with default and bounds, their meaning in its docstring.

From these follow the constructor, its checks, the sections of ``params.yaml``, ``--set`` and ``--help`` of the
steps, and ``docs/settings.md``.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

from pipeline.errors import InputError, nearest

SEEDS = 2**31  # seeds are below
WIDEST = 2**63  # whole numbers are below


class Setting(NamedTuple):
    """Default and bounds of one argument of a method; None: no bound.

    `choices` are the texts it may be, `least_length` how long a list must be, `is_setting` whether it is one of
    the settings that name a run: not the seed, a device or a number of threads.
    """

    default: Any
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    least_length: int | None = None
    is_setting: bool = True


def setting(default: Any, **bounds: Any) -> Any:
    """Declare an argument in the body of a :class:`Configured` class; `bounds` as in :class:`Setting`."""
    return Setting(default, **bounds)


def seed() -> Any:
    """Declare the argument `seed`, which is part of a run's name and no setting."""
    return Setting(0, at_least=0, below=SEEDS, is_setting=False)


class Configured:
    """Base of all methods: keyword arguments declared by :func:`setting`, those of base classes first.

    The constructor stores them and nothing more; :meth:`check_settings` is for the start of a fit. A subclass
    that sets a name to a plain value takes the argument away.

    Examples
    --------
    >>> class Method(Configured):
    ...     '''A method.
    ...
    ...     Parameters
    ...     ----------
    ...     rank
    ...         How much it keeps.
    ...     '''
    ...
    ...     rank: int | None = setting(None, at_least=1)
    >>> Method(rank=4)
    Method(rank=4)
    >>> print(*describe(Method), sep="\\n")
    rank=null  How much it keeps. [a whole number of at least 1, or null]
    """

    declared: ClassVar[dict[str, Setting]] = {}

    def __init_subclass__(cls) -> None:
        """Collect what the class body declares."""
        declared: dict[str, Setting] = {}
        for base in reversed(cls.__mro__[1:]):
            declared |= vars(base).get("declared", {})
        for name, value in list(vars(cls).items()):
            if isinstance(value, Setting):
                declared[name] = value
                setattr(cls, name, value.default)
            else:
                declared.pop(name, None)
        cls.declared = declared
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=entry.default)
            for name, entry in declared.items()
        ]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(self, **given: Any) -> None:
        for name in given:
            if name not in self.declared:
                raise TypeError(f"{type(self).__name__}() has no argument '{name}'{nearest(name, self.declared)}")
        for name, entry in self.declared.items():
            setattr(self, name, given.get(name, entry.default))

    def __repr__(self) -> str:
        given = [
            f"{name}={getattr(self, name)!r}"
            for name, entry in self.declared.items()
            if getattr(self, name) != entry.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def check_settings(self) -> None:
        """Check every argument.

        Raises
        ------
        InputError
            The first that has the wrong type or is out of its bounds, with its value and what it needs.
        """
        for name in self.declared:
            if problem := problem_with(type(self), name, getattr(self, name)):
                raise InputError(f"{name}={_shown(getattr(self, name))}: {problem}")


def settings_of(cls: type[Configured]) -> dict[str, Setting]:
    """What ``params.yaml`` and ``--set`` may give, by name."""
    return {name: entry for name, entry in cls.declared.items() if entry.is_setting}


def defaults(cls: type[Configured]) -> dict[str, Any]:
    """Default of every setting as plain values."""
    return {name: plain(entry.default) for name, entry in settings_of(cls).items()}


def values_of(method: Configured) -> dict[str, Any]:
    """Every setting of `method` as it stands, as plain values."""
    return {name: plain(getattr(method, name)) for name in settings_of(type(method))}


def plain(value: Any) -> Any:
    """Return `value` with tuples as lists, as YAML and JSON hold it."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def check_given(
    cls: type[Configured],
    given: Mapping[str, Any],
    name_of_method: str,
    *,
    also: Collection[str] = (),
    but: Collection[str] = (),
    option: str = "--set ",
) -> None:
    """Check what `option`, as messages call it, gives before anything is made of it.

    `also` names arguments that are no settings but may be given, `but` settings that may not.

    Raises
    ------
    InputError
        A name the method does not have (the nearest is told), or a value that does not fit.
    """
    known = {*settings_of(cls), *also} - {*but}
    for name, value in given.items():
        if name not in known:
            hint = nearest(str(name), known) if known else "; it has none"
            raise InputError(f"{option}{name}: {name_of_method} has no such setting{hint}")
        if problem := problem_with(cls, name, value):
            raise InputError(f"{option}{name}={_shown(value)}: {problem}")


def problem_with(cls: type[Configured], name: str, value: Any) -> str | None:
    """What `value` would have to be to serve as argument `name`; None if it may be what it is."""
    entry, kinds = cls.declared[name], _kinds(cls, name)
    if any(_fits(entry, kind, value) for kind in kinds):
        return None
    if entry.choices and isinstance(value, str):
        return f"is unknown{nearest(value, entry.choices)}"
    return f"needs {wanted(cls, name)}"


def rows(cls: type[Configured]) -> list[tuple[str, str, str, str]]:
    """Every setting: its name, its default in YAML, what it means, what it may be."""
    meanings = meaning_of(cls)
    return [(name, _yaml(value), meanings[name], wanted(cls, name)) for name, value in defaults(cls).items()]


def describe(cls: type[Configured], but: Collection[str] = ()) -> list[str]:
    """One line a setting for ``--help``: default, meaning, what it may be; those named in `but` left out."""
    lines = [(f"{name}={value}", meaning, kind) for name, value, meaning, kind in rows(cls) if name not in but]
    width = max((len(head) for head, _, _ in lines), default=0)
    return [f"{head:<{width}}  {meaning} [{kind}]" for head, meaning, kind in lines]


def describe_all(classes: Mapping[str, type[Configured]], meanings: Mapping[str, str]) -> str:
    """The settings of several methods for ``--help``: what all share first, then each method's own."""
    shared = set.intersection(*(set(settings_of(kind)) for kind in classes.values())) if len(classes) > 1 else set()
    first = next(iter(classes.values()))
    text = ["settings (--set KEY=VALUE), with their defaults:"]
    if shared:
        others = [name for name in settings_of(first) if name not in shared]
        text += ["  all methods:", *(f"    {line}" for line in describe(first, others))]
    for name, kind in classes.items():
        text += [f"  {name}: {meanings[name]}", *(f"    {line}" for line in describe(kind, shared))]
    return "\n".join(text)


def _shown(value: Any) -> str:
    try:
        text = str(value)
    except ValueError:  # of a number with too many digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")


def meaning_of(cls: type[Configured]) -> dict[str, str]:
    """Meaning of every argument, from the sections ``Parameters`` of the docstrings of the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
        for head, body in re.findall(
            r"^(\w[^\n]*)\n((?:[ \t]+[^\n]*\n|\n)+)", section[1] + "\n" if section else "", re.M
        ):
            words = " ".join(body.split()).replace("``", "").replace("`", "")
            found |= dict.fromkeys((name.strip() for name in head.split(",")), words)
    return found


def wanted(cls: type[Configured], name: str) -> str:
    """What an argument may be, in words."""
    entry, kinds = cls.declared[name], _kinds(cls, name)
    or_null = ", or null" if type(None) in kinds else ""
    kind = next(each for each in kinds if each is not type(None))
    if entry.choices:
        return ", ".join(entry.choices) + or_null
    if typing.get_origin(kind) is tuple:
        return _wanted_list(entry, kind) + or_null
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
    bounds = [
        f"{text} {bound:,.12g}"
        for text, bound in (
            ("of at least", entry.at_least),
            ("above", entry.above),
            ("of at most", entry.at_most),
            ("below", entry.below),
        )
        if bound is not None and bound != math.inf
    ]
    if entry.below == math.inf:
        words = words.replace("a number", "a finite number")
    return " ".join([words, " and ".join(bounds)]).strip() + or_null


def _wanted_list(entry: Setting, kind: Any) -> str:
    inner = [each for each in typing.get_args(kind) if each is not Ellipsis]
    if typing.get_origin(inner[0]) is tuple:
        return f"a list of at least {entry.least_length or 1} blocks, such as [[2, 2], [2, 4]]"
    return "rows and columns of a block, such as [2, 4]"


def _kinds(cls: type[Configured], name: str) -> tuple[Any, ...]:
    """The plain types, or tuples of them, that an argument may have; evaluated where the field is declared."""
    owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    hint = owner.__annotations__[name]
    if isinstance(hint, str):
        hint = eval(hint, vars(sys.modules[owner.__module__]))  # noqa: S307 - an annotation of our own
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(entry: Setting, kind: Any, value: Any) -> bool:
    if kind is type(None):
        return value is None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and _within(entry, value) and abs(value) < WIDEST
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and _within(entry, value) and (isinstance(value, float) or abs(value) < WIDEST)
    if kind is str:
        return isinstance(value, str) and (not entry.choices or value in entry.choices)
    if kind is bool:
        return isinstance(value, bool)
    inner = [each for each in typing.get_args(kind) if each is not Ellipsis]
    fixed = Ellipsis not in typing.get_args(kind)
    return (
        isinstance(value, list | tuple)
        and len(value) >= (entry.least_length or 1)
        and (not fixed or len(value) == len(inner))
        and all(_fits(entry._replace(least_length=None), inner[0], each) for each in value)
    )


def _within(entry: Setting, value: float) -> bool:
    return (
        value == value  # no NaN; math.isnan fails for whole numbers too large for a float
        and (entry.at_least is None or value >= entry.at_least)
        and (entry.at_most is None or value <= entry.at_most)
        and (entry.above is None or value > entry.above)
        and (entry.below is None or value < entry.below)
    )
