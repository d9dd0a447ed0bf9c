"""Real images to start with, before one has one's own."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path


def digits_folder(root: str | Path = "data/digits") -> Path:
    """Return a folder with `train` and `val`, each holding the ten class folders of the handwritten digits.

    Writes it (3 s) unless `root` exists: complete or not at all, also when two processes start at once.
    """
    root = Path(root)
    if root.exists():
        return root
    from pochitrain.data.digits import write_digits

    draft = root.parent / f".{root.name}-{uuid.uuid4().hex}"
    try:
        write_digits(draft)
        draft.rename(root)
    except OSError:
        if not root.exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root
