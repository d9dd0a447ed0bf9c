"""Every process of a test that is forked from a fork server has torch at once, whichever test started the server."""

from __future__ import annotations

import multiprocessing

multiprocessing.set_forkserver_preload(["pochitrain.tasks.workers"])
