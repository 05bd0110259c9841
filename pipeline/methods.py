"""The table of methods: what each is, how it is shown, where it is. Everything that lists methods asks here.

A compressor's class, with its settings, is in ``pipeline.neukron`` or in the module of its name in
``pipeline.baselines``; it is imported when it is asked for. No fit imports this table, so that a new row makes
no earlier result stale. Adding a baseline: its file in ``pipeline/baselines``, a row here, its section of
``params.yaml``, its test.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple

from pipeline.baselines import find
from pipeline.core import step
from pipeline.core.settings import Configured, describe_all, rows


class Method(NamedTuple):
    """One method.

    `shown` is its name in words, `light` and `dark` its colours on light and on dark ground, `marker` its marker
    in figures (a letter of matplotlib's, or corners, 1 for a star, angle), `meaning` what it does in a line, `place`
    where a search tries it: cheap and strong first, so that what a later one has to beat is known early.
    """

    name: str
    kind: Literal["neukron", "baseline", "network"]
    shown: str
    light: str
    dark: str
    marker: Any
    meaning: str
    place: int = 50

    def load(self) -> Any:
        """The class of a compressor, or the artifact of a network."""
        if self.kind == "neukron":
            from pipeline.neukron import NeuKron

            return NeuKron
        if self.kind == "network":
            from pipeline.kpd.artifact import NetworkArtifact

            return NetworkArtifact
        return _baseline(self.name)

    def settings_class(self) -> type[Configured]:
        """The class that declares the settings; of a network without importing torch."""
        if self.kind == "network":
            from pipeline.kpd.settings import SETTINGS

            return SETTINGS[self.name]
        kind: type[Configured] = self.load()
        return kind

    @property
    def stochastic(self) -> bool:
        """Whether another seed gives another result."""
        return self.kind == "network" or bool(self.load().stochastic)

    @property
    def matrices_only(self) -> bool:
        """Whether a tensor of three modes is refused."""
        return self.kind == "baseline" and bool(self.load().matrices_only)


@cache
def _baseline(name: str) -> Any:
    return find(name)  # a plan of 1,000 runs asks ten thousand times


# Colours after Okabe and Ito (colour-blind safe), darkened or lightened to at least 3:1 against their ground;
# markers tell apart what colour alone does not. Compressors and networks never share a figure.
METHODS: dict[str, Method] = {
    row[0]: Method(*row)
    for row in (
        ("neukron", "neukron", "NeuKron", "#c8500a", "#ff9a57", "o",
         "generalised Kronecker product whose factors an LSTM gives", 100),
        ("t-svd", "baseline", "T-SVD", "#0068a8", "#5db8f5", "s",
         "truncated singular value decomposition (matrices)", 6),
        ("cp", "baseline", "CP", "#00805f", "#3fcca2", "^", "sum of rank-one terms, by alternating least squares", 7),
        ("tucker", "baseline", "Tucker", "#3d7ea6", "#8fd0f0", "v", "core tensor times one factor matrix a mode", 8),
        ("truncation", "baseline", "truncation", "#b0487f", "#ee94c4", "D",
         "keeps the largest part exactly and drops the rest", 2),
        ("rate-distortion", "baseline", "rate-distortion", "#8a5a44", "#dba88f", "p",
         "keeps, fills in and rounds cells by what their bits are worth", 1),
        ("lossless", "baseline", "lossless", "#555b63", "#c3cad3", "*", "every non-zero, entropy-coded: no error", 0),
        ("cur", "baseline", "CUR", "#a87500", "#efc04d", "P", "sampled columns and rows of the matrix itself", 5),
        ("cmd", "baseline", "CMD", "#7f6a00", "#d8cb4a", "X", "CUR without duplicate columns and rows", 4),
        ("accams", "baseline", "ACCAMS", "#41389b", "#a8a0ff", "<", "sum of co-clusterings", 3),
        ("baccams", "baseline", "bACCAMS", "#8a2550", "#f08bae", ">", "sum of co-clusterings, by Gibbs sampling", 4),
        ("kronfit", "baseline", "KronFit", "#2f6b1e", "#95d67e", "h", "Kronecker powers of one small matrix", 9),
        ("q-svd", "baseline", "quantised SVD", "#1f5c99", "#86c5f5", "d",
         "T-SVD with rounded, entropy-coded vectors (matrices)", 2),
        ("q-cp", "baseline", "quantised CP", "#0e6b52", "#63d6b4", "H", "CP with rounded, entropy-coded factors", 2),
        ("light-it", "baseline", "Light-IT", "#7a4fa3", "#cda9ee", (3, 0, 180),
         "CP whose factors share a Huffman-coded vocabulary", 7),
        ("elicit", "baseline", "ELiCiT", "#a3384c", "#f2a0ad", "8",
         "a few quantised features an index, cells multilinear in them", 1),
        ("hybrid", "baseline", "hybrid", "#5d6d1e", "#c3d47e", (4, 1, 0),
         "ELiCiT, and coded cells where it misses most", 2),
        ("dense", "network", "dense", "#555b63", "#c3cad3", "s", "the same network with ordinary linear layers"),
        ("kpd", "network", "KPD", "#c8500a", "#ff9a57", "o", "block-sparse layers by Kronecker product decomposition"),
        ("kpd-group", "network", "KPD group", "#a87500", "#efc04d", "P",
         "KPD without a selector: a group penalty on orthonormal blocks"),
        ("kpd-choice", "network", "KPD choice", "#7f6a00", "#d8cb4a", "X", "KPD that chooses its block as it trains"),
        ("random-mask", "network", "random mask", "#8a2550", "#f08bae", ">", "blocks drawn at random, zero throughout"),
        ("group-lasso", "network", "group LASSO", "#0068a8", "#5db8f5", "^", "group penalty on the blocks of a weight"),
        ("elastic-group-lasso", "network", "elastic group LASSO", "#3d7ea6", "#8fd0f0", "v",
         "group LASSO plus l2, then debiasing"),
        ("rigl", "network", "block RigL", "#00805f", "#3fcca2", "D", "blocks that move to where the gradient is large"),
        ("srigl", "network", "block SRigL", "#2f6b1e", "#95d67e", "h",
         "block RigL with equally many blocks in every block row in use"),
        ("monarch", "network", "Monarch", "#7f3f8f", "#d39be0", "p",
         "product of two block-diagonal matrices, without zeros"),
        ("btt", "network", "BTT", "#9a5b00", "#f0b060", "d",
         "block tensor train, with a learning rate for each factor"),
        ("magnitude", "network", "magnitude pruning", "#41389b", "#a8a0ff", "<", "the blocks of smallest norm go"),
    )
}  # fmt: skip

BASELINES = tuple(name for name, method in METHODS.items() if method.kind == "baseline")
COMPRESSORS = ("neukron", *BASELINES)
NETWORKS = tuple(name for name, method in METHODS.items() if method.kind == "network")


def settings_help(*names: str) -> str:
    """What ``--help`` of a step says about its methods and their settings."""
    return describe_all(
        {name: METHODS[name].settings_class() for name in names}, {name: METHODS[name].meaning for name in names}
    )


def settings_page() -> str:
    """``docs/settings.md``: every method with its settings."""
    lines = [
        "# Methods and their settings",
        "",
        "Written by `python -m pipeline.methods > docs/settings.md` from what the code declares; a test says when it "
        "is old. Settings are given in `params.yaml`, by `--set NAME=VALUE`, or to the class.",
    ]
    for method in METHODS.values():
        lines += ["", f"## {method.name}", "", f"{method.shown}: {method.meaning}.", ""]
        found = rows(method.settings_class())
        if not found:
            lines.append("No settings.")
            continue
        lines += ["| setting | default | meaning | may be |", "|---|---|---|---|"]
        lines += [f"| `{name}` | `{default}` | {meaning} | {kind} |" for name, default, meaning, kind in found]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Print the methods and their settings as Markdown."""
    step.parser(
        "Print every method with its settings, as Markdown.",
        "example:\n  python -m pipeline.methods > docs/settings.md",
    ).parse_args(argv)
    print(settings_page(), end="")


if __name__ == "__main__":
    step.run(main)
