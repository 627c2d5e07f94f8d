"""Training methods, one file each, by name."""

from dynat_ray.methods import (  # noqa: F401  (they register)
    aalp,
    adr,
    alp,
    arow,
    deep_defense,
    dynat,
    fat,
    gairat,
    generative_ssl,
    gkl,
    hat,
    iaat,
    ikl,
    mail,
    mart,
    mwpb,
    pgd_at,
    standard,
    trades,
    uad_at,
    vir,
)
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.registration import (
    build_method,
    register,
    register_as,
)

__all__ = [
    "Method",
    "MethodContext",
    "MethodLoss",
    "Prepared",
    "build_method",
    "register",
    "register_as",
]
