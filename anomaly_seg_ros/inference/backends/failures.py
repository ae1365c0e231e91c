"""What a runtime says when something fails, as this package's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from anomaly_seg_ros.errors import AnomalySegError, DeviceError, DeviceMemoryError, ExportError
from anomaly_seg_ros.system.memory import is_out_of_memory
from anomaly_seg_ros.system.missing_packages import missing_package


def while_converting(
    backend: str, shape: tuple[int, ...], errors: tuple[type[Exception], ...]
) -> AbstractContextManager[None]:
    """Turns a compiler's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3), the frames that it is compiled for.
        errors: What the compiler raises, beside failed imports; others pass.

    Raises:
        DeviceMemoryError: There was no memory for it.
        ExportError: Any other reason.
    """
    return _as(ExportError, f"backend '{backend}': the network cannot be converted", shape, errors)


def while_running(
    backend: str, shape: tuple[int, ...], errors: tuple[type[Exception], ...]
) -> AbstractContextManager[None]:
    """Turns a runtime's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3), the frames.
        errors: What the runtime raises, beside failed imports; others pass.

    Raises:
        DeviceMemoryError: There was no memory for it.
        DeviceError: Any other reason.
    """
    return _as(DeviceError, f"backend '{backend}': the network failed", shape, errors)


@contextmanager
def _as(
    kind: type[AnomalySegError],
    what: str,
    shape: tuple[int, ...],
    errors: tuple[type[Exception], ...],
) -> Iterator[None]:
    try:
        yield
    # Compilers import their parts when they need them.
    except (MemoryError, ImportError, *errors) as error:
        ours = DeviceMemoryError if is_out_of_memory(error) else kind
        reason = missing_package(error) or _in_words(error)
        raise ours(f"{what} at {shape[1]} x {shape[2]}: {reason}") from error


def _in_words(error: Exception) -> str:
    """One line without the source files and checks that C++ runtimes begin with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (reasons or lines or [type(error).__name__])[0]
