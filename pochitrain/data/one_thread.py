"""One thread of torch for what is done with each image."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import torch
from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Let torch compute in the calling thread alone, from now on or until the end of a `with`.

    Some of torch's operations (ColorJitter and some ways to resize, from 32 768 values on) give other bits in two
    threads than in one. A loading process has one; so all that read images have, for the same bits everywhere.

    `torch.set_num_threads` would also speak for threads that start later, and make oneDNN begin anew.
    """
    torch.get_num_threads()  # the first call in a thread sets it up, which would undo the limit later
    return _openmp().limit(limits=1)  # type: ignore[no-any-return]


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
