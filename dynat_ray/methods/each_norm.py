"""A method under one norm after the other, where the mean of their losses counts.

`threat.combination: avg` (Tramer and Boneh, NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dynat_ray.methods.base import Method, MethodContext


def contexts_of(context: MethodContext) -> list[MethodContext]:
    """Returns a context for each norm whose loss counts apart, `threat.norm` first.

    That is the context itself, unless losses are averaged. Steps are the same part of each radius.
    """
    if context.growth.combination != "avg" or not context.further:
        return [context]
    step = context.step_size / context.threat.eps if context.threat.eps > 0 else 0.0
    return [
        replace(context, threat=threat, step_size=step * threat.eps, further=())
        for threat in (context.threat, *context.further)
    ]


@contextmanager
def working_under(method: Method[Any], context: MethodContext) -> Iterator[None]:
    """Has a method know another context."""
    whole, method.context = method.context, context
    try:
        yield
    finally:
        method.context = whole
