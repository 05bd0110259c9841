"""Numba's compiled functions, whose cache on disk saves time and decides nothing: a full disk is no reason to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache


class _Forgiving(FunctionCache):
    """Numba's cache of one function, which goes without where it cannot be written."""

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep the compiled code for other processes, if that is possible."""
        try:
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]
        except OSError:
            self.disable()  # type: ignore[no-untyped-call]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: as ``numba.njit(cache=True, nogil=True, **options)``, and compiled anew where no disk took it."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
        dispatcher._cache = _Forgiving(function)  # type: ignore[no-untyped-call]
        return dispatcher

    return decorate
