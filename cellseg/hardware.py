"""What the machine computes natively."""

import torch


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
    """Return the device in words, for the record of a run."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.cpu.get_capabilities().get('cpu_name', 'unknown')}, {torch.get_num_threads()} threads)"
    return str(device)
