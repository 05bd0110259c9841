"""Compact matrix decomposition: CUR without duplicates."""

from __future__ import annotations

from pipeline.baselines.cur import CUR


class CMD(CUR):
    """Compact matrix decomposition: CUR in which a column or row drawn twice is kept once (Sun et al., SDM 2007).

    A column drawn n times is scaled by the square root of n, which leaves the singular vectors, and so the
    approximation, as they are. Size as published: 8 bytes for each non-zero of C and R and each entry of U,
    each distinct column and row once. Parameters and attributes are those of :class:`CUR`; it draws by norms.
    """

    name = "cmd"

    leverage: None = None  # no argument here

    def _stored_entries(self) -> tuple[int, int, int]:
        return int(self.left_.nnz), self.middle_.size, int(self.right_.nnz)

    def _drawn(self) -> tuple[int, int]:
        return len(self.columns_), len(self.rows_)
