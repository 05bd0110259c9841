"""Sparse tensors in coordinate form: the arrays, their file format, statistics and samples."""

from pipeline.sparse.tensor import SparseTensor

__all__ = ["SparseTensor"]
