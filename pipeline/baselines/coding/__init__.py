"""Exact codes of sparse tensors."""
