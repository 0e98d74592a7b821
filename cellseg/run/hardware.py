"""Properties of the machine: fastest precision, device name, memory."""

import ctypes
import platform

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them


def native_precision(accelerator: str) -> str:
    """Return Lightning's name of the fastest precision the device has in hardware: bf16-mixed, or else 32-true.

    Emulated bfloat16 is slower than float32, and float16 is never chosen: it overflows in the Dice sums.

    Args:
        accelerator: As in ``trainer.accelerator``: ``auto``, ``gpu``, ``cuda``, ``cpu`` or ``mps``.
    """
    device = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    else:
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "32-true"


def describe_device(device: torch.device) -> str:
    """Return a description of the device for the record of a run."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.cpu.get_capabilities().get('cpu_name', 'unknown')}, {torch.get_num_threads()} threads)"
    return str(device)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor.

    By default glibc returns the memory of large tensors to the system. The system then clears each page of the next
    tensor, which takes a tenth of a training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # the most glibc takes
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out; torch, oneDNN and the C++ library word it differently."""
    said = ("can't allocate memory", "bad_alloc", "could not create a memory", "out of memory", "start new thread")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)
