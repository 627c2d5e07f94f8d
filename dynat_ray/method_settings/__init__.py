"""What can be set of each method, apart from what the methods do, which takes PyTorch.

So a command knows all settings, shows them and refuses a wrong one before PyTorch is imported.
"""

from __future__ import annotations

from dynat_ray.method_settings import budgets, pairing, plain, weights  # noqa: F401  (they register)
from dynat_ray.method_settings.by_name import method_settings, register_settings

__all__ = ["method_settings", "register_settings"]
