"""Arrays, tensors and torch modules as leaves. NumPy and torch are never imported here: who holds one has done so."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from pochitrain.config.canonical.leaves import (
    Held,
    Leaf,
    Made,
    Parts,
    Refused,
    attributes,
    class_name,
    key_text,
    own_class,
    plain_leaf,
)
from pochitrain.locale import _


def describe_array(value: Any) -> Made | None:
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if isinstance(value, np.ndarray):
        head = f"array:{_dtype(value.dtype)}{list(value.shape)}"
        if value.dtype.names:  # field by field, because there may be anything in between
            return Made(head, [(key_text(name), value[name]) for name in value.dtype.names])
        inner = [] if type(value) in (np.ndarray, np.memmap) else [(".<class>", type(value)), *attributes(vars(value))]
        if value.dtype.hasobject or value.dtype.kind == "T":  # T: strings of any length
            return Made(head, [(".<items>", value.tolist()), *inner])
        _refuse_padding(value.dtype)
        plain = np.ascontiguousarray(value).view(np.ndarray)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        return Made(f"{head}:{hashlib.sha256(plain.tobytes()).hexdigest()}", inner)
    if isinstance(value, np.generic):
        _refuse_padding(value.dtype)
        item = value.item()
        fields: Parts = [(".<items>", item)] if value.dtype.names else []
        return Made(f"numpy.{_dtype(value.dtype)}:{plain_leaf(item) or ''}", fields)
    if isinstance(value, np.dtype):
        return Made(f"numpy.dtype:{_dtype(value)}", [])
    return None


def _dtype(dtype: Any) -> str:
    if dtype.kind == "T":  # strings of any length
        return "T"
    little = dtype.newbyteorder("<")
    return json.dumps(little.descr) if dtype.names else str(little.str)


def _refuse_padding(dtype: Any) -> None:
    if dtype.char in "gG":  # 10 bytes of number, and 6 of whatever was in memory
        raise Refused(_("A long double has no stable identity"), _("use float64"))


def describe_tensor(value: Any) -> Made | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        return _tensor(value, torch)
    if isinstance(value, torch.jit.ScriptModule):
        raise Refused(_("A scripted module has no stable identity"), _("write the module itself, without torch.jit"))
    if isinstance(value, torch.nn.Module):
        return _module(value, torch)
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return Made(f"torch:{value}", [])
    return None


def _tensor(value: Any, torch: Any) -> Made:
    refused = Refused(
        _("A sparse, quantized, lazy or meta tensor has no stable identity"),
        _("keep a dense tensor, and convert it where it is used"),
    )
    if value.is_quantized:
        raise refused
    try:
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        content = hashlib.sha256(flat.view(torch.uint8).numpy() if flat.numel() else b"").hexdigest()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        raise refused from None
    kind = str(value.dtype).removeprefix("torch.") + str(list(value.shape))
    if value.requires_grad:
        kind += ":trained"
    plain = type(value) in (torch.Tensor, torch.nn.Parameter)
    inner = [] if plain else [(".<class>", type(value)), *attributes(vars(value))]
    return Made(f"tensor:{kind}:{content}", inner)


def _module(value: Any, torch: Any) -> Made:
    """Describe a torch module by what it holds beyond an empty one: attributes, hooks, tensors, children."""
    if class_name(type(value)) == "torch.eval_frame.OptimizedModule":  # torch.compile changes the rounding only
        return Made("compiled:", [(".module", value._orig_mod)])
    state, empty = dict(vars(value)), vars(torch.nn.Module())
    children = state.pop("_modules")
    tensors = {**state.pop("_parameters"), **state.pop("_buffers")}
    if class_name(type(value)).startswith("torchvision."):
        state.pop("_log_ratio", None)  # follows from `ratio`, rounded as the processor does
    parts = own_class(value)
    for name, item in sorted(state.items()):
        if name not in empty:
            parts.append((key_text(name), item))
        elif item != empty[name]:  # hooks are numbered by a counter of the process
            parts.append((f".{name}", list(item.values()) if isinstance(item, dict) else item))
    parts += [(key_text(name), tensor if tensor is None else Held(tensor)) for name, tensor in tensors.items()]
    parts += [(key_text(name), child) for name, child in children.items()]
    if tensors or children:
        parts.append((".<order>", Leaf("order:" + json.dumps([*tensors, *children]))))
    return Made(f"object:{class_name(type(value))}", parts)
