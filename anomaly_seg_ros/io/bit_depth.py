"""How many bits the samples of 16-bit images really have.

A ``mono16`` or ``bayer_*16`` message does not say. Industrial cameras put 10 or 12 bits at the
lower end of the 16, and what reads them as 16 gets a picture that is 16 to 64 times too dark.
"""

from __future__ import annotations

import numpy as np

from anomaly_seg_ros.errors import ParameterError

FULL = 16
# Depths of sensors, to name one that holds what was seen.
_USUAL = (8, 10, 12, 14)
# Frames to look at before saying anything: a camera that starts may be dark at first.
_FRAMES = 5


class BitDepth:
    """Scales 16-bit samples to 8 bits, and remembers how many bits they used.

    One instance follows one camera. Its counters may be read from another thread.

    Args:
        bits: As stated, 1 to 16; 0 where nobody states it: 16, until the samples look otherwise.

    Raises:
        ParameterError: Another depth.

    Attributes:
        bits: The same; may be changed between two images.
        frames: 16-bit images so far.
        used: Bits of the largest sample so far.
        clipped: Samples of the newest image that were too large for ``bits``; shown as white.
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

        Samples whose bits lie at the upper end of the 16 (left-justified) are right with 16.

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
            # Of bytes the maximum is found eight times as fast.
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
        """The depth that the samples look like, where none is stated; 0 for the full 16."""
        if self.bits or self.frames < _FRAMES or not self.used:
            return 0
        return next((bits for bits in _USUAL if self.used <= bits), 0)

    def remarks(self) -> dict[str, str]:
        """What is doubtful about the depth, by kind, each with what to do; mostly nothing."""
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
