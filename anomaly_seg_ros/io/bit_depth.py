# SPDX-License-Identifier: Apache-2.0
"""The number of bits that the samples of 16-bit images really use.

A ``mono16`` or ``bayer_*16`` message does not state it. Industrial cameras fill the lower 10 or 12
of the 16 bits; read as 16 bits, such images are 16 to 64 times too dark.
"""

from __future__ import annotations

import numpy as np

from anomaly_seg_ros.errors import ParameterError

FULL = 16
# Usual sensor depths, for suggestions.
_USUAL = (8, 10, 12, 14)
# Frames before any suggestion: a camera may be dark when it starts.
_FRAMES = 5


class BitDepth:
    """Scales 16-bit samples to 8 bits and records how many bits they use.

    One instance follows one camera. Its counters may be read from another thread.

    Args:
        bits: Stated depth, 1 to 16; 0 if unknown, which reads as 16.

    Raises:
        ParameterError: The depth is out of range.

    Attributes:
        bits: Stated depth; may be changed between two images.
        frames: Number of 16-bit images so far.
        used: Bits of the largest sample so far.
        clipped: Number of samples of the newest image too large for ``bits``; they become white.
        needed: Bits of the newest image's largest sample.
    """

    def __init__(self, bits: int = 0) -> None:
        if not 0 <= bits <= FULL:
            raise ParameterError(
                f"bit depth {bits}: expected 1 to {FULL}, or 0 if it is not known"
            )
        self.bits = bits
        self.frames = self.used = self.clipped = self.needed = 0

    def to_8_bit(self, samples: np.ndarray) -> np.ndarray:
        """Keeps the upper eight of the bits in use, as a right shift does.

        Left-justified samples, which fill the upper bits of the 16, need a depth of 16.

        Args:
            samples: (H, W, C) uint16 of either byte order, C without transparency; each pixel's
                samples adjacent in memory.

        Returns:
            (H, W, C) uint8 in C order.
        """
        bits = self.bits or FULL
        if bits == FULL:
            high = 0 if samples.dtype.byteorder == ">" else 1
            pairs = samples.view(np.uint8).reshape(*samples.shape, 2)
            result = np.ascontiguousarray(pairs[..., high])
            # The maximum of bytes takes an eighth of the time.
            if top := int(result.max()):
                self.needed = 8 + top.bit_length()
            else:
                self.needed = int(pairs[..., 1 - high].max()).bit_length()
            self.clipped = 0
        else:
            values = samples.astype(np.uint16)  # native byte order
            self.needed = int(values.max()).bit_length()
            over = self.needed > bits
            self.clipped = int(np.count_nonzero(values >> bits)) if over else 0
            if over:
                np.minimum(values, (1 << bits) - 1, out=values)
            scaled = values >> (bits - 8) if bits >= 8 else values << (8 - bits)
            result = scaled.astype(np.uint8)
        self.used = max(self.used, self.needed)
        self.frames += 1
        return result

    @property
    def looks_like(self) -> int:
        """The depth that the samples suggest if none is stated; 0 for the full 16."""
        if self.bits or self.frames < _FRAMES or not self.used:
            return 0
        return next((bits for bits in _USUAL if self.used <= bits), 0)

    def remarks(self) -> dict[str, str]:
        """Doubts about the depth by kind, each with its remedy; usually empty."""
        found = {}
        if bits := self.looks_like:
            found["bit depth"] = (
                f"no sample of {self.frames} 16-bit frames is above {(1 << self.used) - 1}: they "
                f"look like {bits} bits and are read {1 << (FULL - bits)} times too dark: set "
                f"'bit_depth: {bits}', or 'bit_depth: {FULL}' if the scene is only dark"
            )
        if self.clipped:
            enough = next((bits for bits in (*_USUAL, FULL) if self.needed <= bits), FULL)
            found["over bit depth"] = (
                f"{self.clipped} samples of the newest 16-bit frame do not fit into {self.bits} "
                f"bits and became white: set 'bit_depth: {enough}'"
            )
        return found
