"""Official code of restoration networks, imported from checkouts of their repositories in one folder (`--official`).

The folders there have the repositories' names: SwinIR (JingyunLiang/SwinIR), SCUNet (cszn/SCUNet), BSRGAN (cszn/BSRGAN), DiffBIR
(XPixelGroup/DiffBIR), StableSR (IceClear/StableSR).
"""

import importlib
import sys
import types
import typing
from pathlib import Path

import torch

folder: Path | None = None


def module(repository: str, name: str):
    """The module `name` of a repository."""
    return modules(repository, name)[0]


def modules(repository: str, *names: str) -> list:
    """Modules of a repository, which share their classes. Repositories have modules of the same names, so none stays
    imported."""
    root = folder / repository
    if not root.is_dir():
        raise SystemExit(f"{root} is missing: clone the repository {repository} there")
    # SCUNet imports a counter of operations, and DiffBIR a library for another sampler; neither is used here.
    sys.modules.setdefault("thop", types.SimpleNamespace(profile=None))
    sys.modules.setdefault("torchsde", types.SimpleNamespace())
    # DiffBIR takes it from PyTorch, whose newer versions no longer pass it on.
    torch.Tuple = typing.Tuple
    sys.path.insert(0, str(root))
    before = set(sys.modules)
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(root))
        for new in set(sys.modules) - before:
            if str(getattr(sys.modules[new], "__file__", None) or "").startswith(str(root)):
                del sys.modules[new]
