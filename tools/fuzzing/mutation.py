# SPDX-License-Identifier: Apache-2.0
"""Mutations of valid inputs, as a strategy of hypothesis: what CI runs, the same each time."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

# Numbers at which sizes, offsets and signs go wrong.
_EDGES = (
    *(0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1),
)
_MOST_EDITS = 4
_LONGEST = 64


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after a few edits: cut, spliced, repeated, overwritten."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, _MOST_EDITS))):
        place = draw(st.integers(0, len(data)))
        edit = draw(st.sampled_from(("bytes", "number", "delete", "cut", "repeat", "splice")))
        if edit == "bytes":
            new = draw(st.binary(min_size=1, max_size=16))
            data[place : place + draw(st.integers(0, len(new)))] = new
        elif edit == "number":
            width = draw(st.sampled_from((1, 2, 4, 8)))
            number = draw(st.sampled_from(_EDGES)) % (1 << 8 * width)
            order = draw(st.sampled_from(("little", "big")))
            data[place : place + width] = number.to_bytes(width, order)
        elif edit == "delete":
            del data[place : place + draw(st.integers(1, _LONGEST))]
        elif edit == "cut":
            del data[place:]
        elif edit == "repeat":
            start = draw(st.integers(0, len(data)))
            data[place:place] = data[start : start + draw(st.integers(1, _LONGEST))]
        else:
            other = draw(st.sampled_from(seeds))
            data[place:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)
