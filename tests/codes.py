"""What every exact code promises of bytes that are none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import InputError


def refused_or_whole(unpack: Callable[[bytes], tuple[Any, Any, Any]], damaged: bytes) -> None:
    """Unpack: either a line says that the code is damaged, or its cells lie inside the shape, a value each."""
    try:
        coords, values, shape = unpack(damaged)
    except InputError as error:
        assert "damaged" in str(error)
    else:
        assert len(coords) == len(values) and np.all(coords < shape) and np.all(coords >= 0)
