"""NeuKron: constant-size lossy compression of sparse, reorderable matrices and tensors."""

from pipeline.neukron.estimator import NeuKron

__all__ = ["NeuKron"]
