"""GELU (by the error function) and ReLU with their slopes on float32, exact to single precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.kernels.vector import cached

compiled, contracted = cached(), cached(fastmath={"contract"})

ZERO, ONE, HALF, ROOT_HALF = (np.float32(value) for value in (0.0, 1.0, 0.5, math.sqrt(0.5)))
ERF_IS_ONE = np.float32(4.0)  # and from there on, to single precision
# erf(u) = u P(u^2) / Q(u^2) below, to 2.2e-8: fitted by least squares, reweighted towards the largest error
P0, P1, P2 = np.float32(1.12837899), np.float32(0.19624491), np.float32(0.0534669459)
P3, P4, P5 = np.float32(0.00400347682), np.float32(0.000288038398), np.float32(1.97486816e-06)
Q1, Q2, Q3 = np.float32(0.5072487), np.float32(0.116474755), np.float32(0.0154440785)
Q4, Q5 = np.float32(0.00121632067), np.float32(3.74811061e-05)

DENSITY = np.float32(1 / math.sqrt(2 * math.pi))  # of the standard normal distribution at 0
FLAT = np.float32(80.0)  # u^2 from where on exp(-u^2) is none to single precision
LOG2_E, BIAS, MANTISSA = np.float32(math.log2(math.e)), 127, 23
TO_WHOLE = np.float32(3 << 22)  # adding and taking it away again rounds to a whole number
# 2^f for |f| <= 1/2: its Taylor series
E1, E2, E3, E4, E5, E6, E7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 8))


@intrinsic
def _as_float(_, bits):  # type: ignore[no-untyped-def]
    """The float32 that has these 32 bits."""

    def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), emit


@contracted
def _erf(u):  # type: ignore[no-untyped-def]
    u = u if u < ERF_IS_ONE else ERF_IS_ONE
    u = u if u > -ERF_IS_ONE else -ERF_IS_ONE
    s = u * u
    above = ((((P5 * s + P4) * s + P3) * s + P2) * s + P1) * s + P0
    below = ((((Q5 * s + Q4) * s + Q3) * s + Q2) * s + Q1) * s + ONE
    erf = u * above / below
    erf = erf if u < ERF_IS_ONE else ONE
    return erf if u > -ERF_IS_ONE else -ONE


@contracted
def gelu(values):  # type: ignore[no-untyped-def]
    """Each v becomes v (1 + erf(v / sqrt 2)) / 2."""
    for i in range(len(values)):
        v = values[i]
        erf = _erf(v * ROOT_HALF)
        values[i] = HALF * v * (ONE + erf)


@contracted
def gelu_and_slope(values, slopes):  # type: ignore[no-untyped-def]
    """As :func:`gelu`; `slopes` get (1 + erf(v / sqrt 2)) / 2 + v exp(-v^2 / 2) / sqrt(2 pi)."""
    for i in range(len(values)):
        v = values[i]
        u = v * ROOT_HALF
        squared = u * u
        erf = _erf(u)
        power = (squared if squared < FLAT else FLAT) * -LOG2_E
        whole = (power + TO_WHOLE) - TO_WHOLE
        f = power - whole
        part = ((((((E7 * f + E6) * f + E5) * f + E4) * f + E3) * f + E2) * f + E1) * f + ONE
        bits = (np.int32(whole) + np.int32(BIAS)) << np.int32(MANTISSA)
        scale = _as_float(np.int32(bits))  # type: ignore[call-arg, var-annotated]
        density = DENSITY * part * scale if squared < FLAT else ZERO
        slopes[i] = HALF * (ONE + erf) + v * density
        values[i] = HALF * v * (ONE + erf)


@compiled
def relu(values):  # type: ignore[no-untyped-def]
    """Each negative v becomes zero."""
    for i in range(len(values)):
        v = values[i]
        values[i] = ZERO if v < ZERO else v


@compiled
def relu_and_slope(values, slopes):  # type: ignore[no-untyped-def]
    """As :func:`relu`; `slopes` get 0 where that gives 0, else 1."""
    for i in range(len(values)):
        v = values[i]
        slopes[i] = ZERO if v <= ZERO else ONE
        values[i] = ZERO if v < ZERO else v
