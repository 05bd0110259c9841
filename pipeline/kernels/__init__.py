"""Compiled vector kernels that NeuKron and KPD share."""
