"""Compilation of the hot loops over bytes and integers: numba with an on-disk cache where the machine has a place for one."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` to machine code on first call, without holding the GIL.

    The compiled code is cached beside the module or in the user's cache folder; in a container where neither can be
    written it is compiled anew in each process (1 to 2 seconds a function).
    """
    try:
        return numba.njit(cache=True, nogil=True, boundscheck=False)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(nogil=True, boundscheck=False)(function)  # type: ignore[no-any-return]
