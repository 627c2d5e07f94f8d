"""Training methods, one file each, by name."""

from dynat_ray.methods import dynat, pgd_at, standard, trades  # noqa: F401  (they register)
from dynat_ray.methods.base import Method, MethodContext, Prepared
from dynat_ray.methods.registry import build_method, method_settings

__all__ = ["Method", "MethodContext", "Prepared", "build_method", "method_settings"]
