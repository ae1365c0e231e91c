"""A look at pickles before they are read: keys that would never be hashed to the end.

``a = (1,); b = (a, a); c = (b, b)`` and so on takes a few bytes a level, and twice the time a
level to hash. As a key of a dictionary forty levels keep any unpickler busy for ever.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import IO

# torch nests them two deep, in the arguments of its rebuilding functions.
DEEPEST_TUPLES = 16
_MARK = -1
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


def check_nesting(stream: IO[bytes]) -> None:
    """Walks over the opcodes of one pickle, without running any.

    Args:
        stream: At the beginning of the pickle; afterwards at its end, where nothing is damaged.

    Raises:
        UnpicklingError: Tuples in tuples deeper than :data:`DEEPEST_TUPLES`.
        ValueError, IndexError: No pickle, or a damaged one.
    """
    stack: list[int] = []  # depth of tuples of each object, or the mark
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _PUT:
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
        elif opcode.name in _GET:
            stack.append(memo.get(argument, 0))
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            taken = _take(stack, opcode)
            depth = 0
            if opcode.name in _TUPLES:
                depth = 1 + max(taken, default=0)
                if depth > DEEPEST_TUPLES:
                    raise pickle.UnpicklingError("it nests tuples too deeply")
            stack += [depth] * len(opcode.stack_after)


def _take(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Removes what an opcode takes from the stack, down to the mark where it takes a slice."""
    below = opcode.stack_before
    taken = []
    if pickletools.markobject in below:
        while (depth := stack.pop()) != _MARK:
            taken.append(depth)
        below = below[: below.index(pickletools.markobject)]
    return taken + [stack.pop() for _ in below]
