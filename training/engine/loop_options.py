"""How long a run is, how often it looks, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass

from anomaly_seg_ros.errors import ParameterError


@dataclass(frozen=True)
class LoopOptions:
    """How long, how often, and when to stop.

    Attributes:
        steps: Optimizer steps in all.
        warmup: Steps of linear learning-rate warm-up.
        poly_power: The rate falls as ``(1 - step / steps) ** poly_power``.
        ema_decay: Of the averaged weights that are validated and shipped.
        validate_every, checkpoint_every, log_every: In steps.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast.
        accumulate: Micro-batches of one step; see the module for what that means.
        clip_norm: Largest norm of the gradient.
        seed: Of the random numbers drawn in the steps.
        validate_first: Validate before the first step; these figures are the start that
            ``max_drop`` refers to.
        best_figure: Validation figure by which ``best.pt`` is chosen; "" keeps the last model
            that passed the guard, and none without a guard.
        lower_is_better: Of ``best_figure``.
        guard_figure: Validation figure (higher = better) that must not fall; "" guards none.
        max_drop: The run stops once ``guard_figure`` lies more than this below its start, and
            such a model is never the best.
        tensorboard: Also log to TensorBoard.
    """

    steps: int
    warmup: int = 100
    poly_power: float = 0.9
    ema_decay: float = 0.998
    validate_every: int = 1000
    checkpoint_every: int = 200
    log_every: int = 20
    precision: str = "bf16"
    accumulate: int = 1
    clip_norm: float = 10.0
    seed: int = 0
    validate_first: bool = False
    best_figure: str = ""
    lower_is_better: bool = False
    guard_figure: str = ""
    max_drop: float = 0.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "checkpoint_every", "log_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.guard_figure and not self.validate_first:
            raise ParameterError("guard_figure needs validate_first: it compares with the start")
