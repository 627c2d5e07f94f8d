"""Kernels of our own for training on a CPU, in C++."""
