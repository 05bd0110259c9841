"""NeuKron: constant-size lossy compression of sparse, reorderable matrices and tensors."""

from pipeline.neukron.neukron import NeuKron

__all__ = ["NeuKron"]
