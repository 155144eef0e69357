"""A device of PyTorch for tests, written in Python: its tensors cannot be mixed with those of the CPU.

After ``register()``, ``torch.device("hosted")`` is a device like any other: autograd, ``torch.func``, autocast and
optimisers work on it. Each operator runs the CPU's kernel on the values behind its tensors, so a result is that of the
CPU. As on CUDA, a CPU tensor with dimensions among its operands is an error, and ``numpy()`` too. ``traffic`` counts
what a GPU would have to wait for.

What a test on it cannot show: kernels that another device lacks or rounds otherwise, memory, speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.utils._pytree import tree_iter, tree_map

NAME = "hosted"
# Operators that CUDA too lets cross devices: copies, and indexing, whose indices may be on the CPU.
CROSSING = frozenset(
    {"_copy_from", "copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
)
# Operators whose result's size depends on values: the host has to wait for them.
SIZED_BY_VALUES = frozenset({"nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"})


@dataclass
class Traffic:
    """Counts since the process started.

    Attributes:
        operators: that ran on the device.
        to_host: values or tensors that the host read, or had to wait for.
    """

    operators: int = 0
    to_host: int = 0


traffic = Traffic()


class HostedTensor(torch.Tensor):
    """A tensor on the device; ``stored`` is the CPU tensor behind it."""

    stored: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "HostedTensor":
        made: HostedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
        )
        made.stored = values
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch calls it so
        cls,
        operator: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return execute(operator, *args, **(kwargs or {}))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}:{self.stored}"

    def tolist(self) -> Any:
        traffic.to_host += 1
        return self.stored.tolist()

    def numpy(self, *, force: bool = False) -> NoReturn:
        raise TypeError(f"A tensor on the device {NAME} cannot be a numpy array: call .cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.numpy()


def execute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator of the device on the CPU; its result is on the device, unless it is a copy to the host.

    Raises:
        RuntimeError: a CPU tensor is among the operands.
    """
    name = operator._schema.name.removeprefix("aten::")
    operands = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if name not in CROSSING:
        refuse_host_tensors(operator, operands)
    traffic.operators += 1
    traffic.to_host += waits(name, args)
    kwargs.pop("pin_memory", None)
    target = torch.device(kwargs.get("device") or NAME)
    result = operator(*tree_map(on_host, args), **tree_map(on_host, kwargs))
    if name == "_to_copy" and target.type != NAME:
        traffic.to_host += 1
        return result.clone()  # on the CPU already, where it would share the values
    # What an operator writes in place is returned as the tensor that was given.
    given = {id(on_host(operand)): operand for operand in operands}
    return tree_map(
        lambda leaf: (
            (given.get(id(leaf)) if id(leaf) in given else HostedTensor(leaf))
            if isinstance(leaf, torch.Tensor)
            else leaf
        ),
        result,
    )


def refuse_host_tensors(operator: Any, operands: Sequence[torch.Tensor]) -> None:
    """Raise where a CPU tensor that has dimensions is an operand."""
    for operand in operands:
        if operand.dim() and not isinstance(operand, HostedTensor):
            raise RuntimeError(
                f"{operator}: a CPU tensor of shape {tuple(operand.shape)} on the device {NAME}."
            )


def waits(name: str, args: Sequence[Any]) -> bool:
    """Whether the host has to wait for this operator's values."""
    if name in ("copy_", "_copy_from"):
        target = args[0] if name == "copy_" else args[1]
        return not isinstance(target, HostedTensor)
    masked = name.startswith("index") and any(
        isinstance(leaf, HostedTensor) and leaf.dtype in (torch.bool, torch.uint8)
        for leaf in tree_iter(args[1:2])
    )
    return masked or name == "_local_scalar_dense" or name in SIZED_BY_VALUES


def on_host(leaf: Any) -> Any:
    """The CPU's tensor or device in place of the device's own."""
    if isinstance(leaf, HostedTensor):
        return leaf.stored
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """What PyTorch calls to copy between devices."""
    traffic.to_host += not isinstance(target, HostedTensor)
    on_host(target).copy_(on_host(source))
    return target


class Backend:
    """The module of the device, as ``torch.cuda`` is that of CUDA."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: object) -> None:
        """There is one."""

    def manual_seed(self, seed: int) -> None:
        """Its kernels draw from the CPU's generator, which is seeded already."""

    manual_seed_all = manual_seed

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_library: list[torch.library.Library] = []


def is_supported() -> bool:
    """Whether this PyTorch takes devices that are written in Python."""
    try:
        from torch.utils import backend_registration
    except ImportError:
        return False
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def register() -> torch.device:
    """The device, which PyTorch knows from here on until the process ends.

    Call it before the first backward pass of the process: autograd makes its queues then, for the devices it knows.
    """
    if not _library:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
        every = torch.library.Library("_", "IMPL")
        every.fallback(execute, "PrivateUse1")  # operators without an operand of the device: empty, arange...
        every.fallback(
            torch.library.fallthrough_kernel, "AutocastPrivateUse1"
        )  # autocast changes no type here
        aten = torch.library.Library("aten", "IMPL")
        aten.impl("_copy_from", copy_from, "PrivateUse1")
        _library.extend((every, aten))
    return torch.device(NAME)
