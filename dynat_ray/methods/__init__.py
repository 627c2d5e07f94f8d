"""Training methods, one file each, by name."""

from dynat_ray.methods import (  # noqa: F401  (they register)
    aalp,
    alp,
    deep_defense,
    dynat,
    fat,
    gairat,
    generative_ssl,
    hat,
    iaat,
    mail,
    mart,
    mwpb,
    pgd_at,
    standard,
    trades,
    uad_at,
)
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.registration import (
    ablation,
    build_method,
    method_settings,
    register,
    standard_model_key,
)

__all__ = [
    "Method",
    "MethodContext",
    "MethodLoss",
    "Prepared",
    "ablation",
    "build_method",
    "method_settings",
    "register",
    "standard_model_key",
]
