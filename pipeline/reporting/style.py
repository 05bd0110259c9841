"""The look that all figures and the page share: a colour and a marker a method, text sizes, number formats."""

from __future__ import annotations

import math
import re
from typing import Any

from pipeline.methods import METHODS, Method

_READS_AS_NOTHING = re.compile(r"n[-_.]?a|no|none|nil|null|nan|unknown|missing", re.IGNORECASE)
_SPARE = Method("", "network", "", "#555b63", "#c3cad3", "p", "")

INK, MUTED, GRID, GROUND = "#1b2530", "#5a6673", "#dfe4ea", "#fffffe"
# What each colour of a drawing becomes on the page, where the colour scheme decides.
THEME = {INK: "ink", MUTED: "muted", GRID: "grid", GROUND: "card"}

TEXT = 9.0
MOST_LABELS = 12  # of more curves only the best of each method is labelled
# Dashes and gaps of the methods' lines, in points; a method keeps its own in every figure, with colours or without.
# Methods beyond these get a dash and three dots, four, ..
DASHES = [
    (), (5, 1.5), (1.5, 1.2), (5, 1.5, 1.5, 1.5), (8, 2), (3, 2), (8, 2, 3, 2), (5, 1.5, 1.5, 1.5, 1.5, 1.5),
    (3, 1, 1, 1), (10, 1.5), (2, 3), (8, 1.5, 1.5, 1.5),
    (2, 1, 6, 1), (12, 2, 2, 2),
]  # fmt: skip
TIMES, MISSING, ABOUT = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}", "\N{ALMOST EQUAL TO}"
PLUS_MINUS, MINUS = "\N{PLUS-MINUS SIGN}", "\N{MINUS SIGN}"
# Keys are Any because matplotlib's stubs want them as literals.
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": TEXT - 0.5,
    "ytick.labelsize": TEXT - 0.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.visible": False,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": False,
}


def look(method: str) -> Method:
    """How `method` is shown; one that is not listed gets a neutral look under its own name."""
    return METHODS.get(method, _SPARE._replace(name=method, shown=method))


def dash(method: str) -> tuple[float, ...]:
    """Dashes and gaps of a method's line, different from those of any other method of its figures."""
    is_network = look(method).kind == "network"
    peers = [name for name, item in METHODS.items() if (item.kind == "network") == is_network]
    if method not in peers:
        return ()
    index = peers.index(method)
    return DASHES[index] if index < len(DASHES) else (6, 1.5) + (1.2, 1.5) * (index - len(DASHES) + 3)


def point_name(method: str, setting: str) -> str:
    """A method and its setting in words; a setting called default goes without saying.

    >>> point_name("t-svd", "r4"), point_name("lossless", "default")
    ('T-SVD r4', 'lossless')
    """
    return look(method).shown if setting == "default" else f"{look(method).shown} {setting_name(setting)}"


def setting_name(setting: str) -> str:
    """A setting's name in words; one that reads as if there were none says what it is.

    >>> setting_name("h15e200"), setting_name("n-a"), setting_name("none")
    ('h15e200', 'variant n-a', 'variant none')
    """
    return f"variant {setting}" if _READS_AS_NOTHING.fullmatch(setting) else setting


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters, without its middle where it is longer: names differ at their ends.

    >>> shortened("CP r4", 9), shortened("CP rank-of-four", 9)
    ('CP r4', 'CP r…four')
    """
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def variables(dark: bool) -> dict[str, str]:
    """CSS variables of the methods' colours."""
    return {f"m-{name}": (item.dark if dark else item.light) for name, item in METHODS.items()}


def colour_variables() -> dict[str, str]:
    """The variable that stands for each colour of a drawing."""
    shared = {item.light: f"m-{name}" for name, item in reversed(METHODS.items())}
    return THEME | shared


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and thousands separated, never in powers of ten.

    >>> significant(0.012345), significant(123456), significant(0), significant(9.996)
    ('0.0123', '123,000', '0', '10.0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else MISSING
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(places, 0)}f}"


_STEPS = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]


def with_prefix(value: float, unit: str, digits: int = 3) -> str:
    """A quantity with a decimal prefix: 1 kB is 1,000 bytes.

    >>> with_prefix(8444, "B"), with_prefix(999, "B"), with_prefix(62.0, "B"), with_prefix(999_999, "B")
    ('8.44 kB', '999 B', '62 B', '1.00 MB')
    """
    for index, (factor, prefix) in enumerate(_STEPS):
        if abs(value) >= factor * 0.9995:
            scaled = value / factor
            if round(scaled, 0) >= 1000 and index > 0:
                factor, prefix = _STEPS[index - 1]
                scaled = value / factor
            return f"{significant(scaled, digits)} {prefix}{unit}".strip()
    if float(value).is_integer():
        return f"{value:.0f} {unit}".strip()
    return f"{significant(value, digits)} {unit}".strip()


def duration(seconds: float) -> str:
    """A time span in the unit that suits it.

    >>> duration(0.0042), duration(3.14), duration(600), duration(7300)
    ('4.20 ms', '3.14 s', '10.0 min', '2.03 h')
    """
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if seconds < limit:
            return f"{significant(seconds * factor)} {unit}"
    return f"{significant(seconds / 3600)} h"


def times(ratio: float) -> str:
    """A ratio as a factor.

    >>> times(1.04), times(3.26), times(123.4)
    ('1.04', '3.3', '123')
    """
    if ratio < 1.095:
        return f"{ratio:.2f}"
    return f"{ratio:.1f}" if ratio < 99.5 else f"{ratio:,.0f}"
