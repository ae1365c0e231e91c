"""What a runtime says when something fails, as this package's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError, ExportError

# Of OpenVINO, ONNX Runtime, the C++ library and the operating system.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
)


@contextmanager
def while_converting(
    backend: str, shape: tuple[int, ...], errors: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Turns a compiler's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3), the frames that it is compiled for.
        errors: What the compiler raises; others pass.

    Raises:
        DeviceMemoryError: There was no memory for it.
        ExportError: Any other reason.
    """
    try:
        yield
    except (MemoryError, *errors) as error:
        where = f"backend '{backend}': the network cannot be converted at {shape[1]} x {shape[2]}"
        kind = DeviceMemoryError if _is_memory(error) else ExportError
        raise kind(f"{where}: {_in_words(error)}") from error


@contextmanager
def while_running(
    backend: str, shape: tuple[int, ...], errors: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Turns a runtime's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3), the frames.
        errors: What the runtime raises; others pass.

    Raises:
        DeviceMemoryError: There was no memory for it.
        DeviceError: Any other reason.
    """
    try:
        yield
    except (MemoryError, *errors) as error:
        where = f"backend '{backend}': the network failed at {shape[1]} x {shape[2]}"
        kind = DeviceMemoryError if _is_memory(error) else DeviceError
        raise kind(f"{where}: {_in_words(error)}") from error


def _is_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _OUT_OF_MEMORY)


def _in_words(error: Exception) -> str:
    """One line without the source files and checks that C++ runtimes begin with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (reasons or lines or [type(error).__name__])[0]
