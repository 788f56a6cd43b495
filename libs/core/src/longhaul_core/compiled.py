"""Compilation of the hot loops over bytes and integers: numba, with a cache on disk where it can be written."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` to machine code on first call, without holding the GIL.

    The compiled code is cached beside the module or in the user's cache folder; in a container where neither can be
    written it is compiled anew in each process (1 to 2 seconds a function).
    """
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, boundscheck=False)(function))
    except RuntimeError:
        return cast(Function, numba.njit(nogil=True, boundscheck=False)(function))
