"""Which topic of a bag the frames are on.

Never on a topic of this package's detector, of ground truth, or of depth and the like. Of the
others the first one by this rule: most ground truth belongs to it; colour before grey; most
messages; raw before compressed; by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RULE = (
    "most ground truth of the same stamps, colour before grey, most messages, raw before "
    "compressed, by name"
)
# Below the name of a detector, or of a camera of it (docs: the node's topics).
OWN_OUTPUTS = frozenset(
    (
        "labels",
        "open_set_labels",
        "open_set_mask",
        "ood_score",
        "confidence",
        "overlay",
        "ood_heatmap",
    )
)
_TRANSPORTS = ("/compressed", "/compressedDepth")
_NO_COLOUR_CAMERA = frozenset(
    ("depth", "disparity", "range", "ranges", "infrared", "infra", "ir", "thermal")
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Distances, not brightness; 8-bit and RGB encodings may be anything.
_DEPTH_ENCODING = re.compile(r"(16|32|64)[USF]C1\b|.*compressedDepth", re.IGNORECASE)
_GREY_ENCODING = re.compile(r"(mono|8UC1\b|16UC1\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A topic of images.

    Attributes:
        topic: Name.
        encoding: Of its first message; of compressed images the format.
        count: Number of messages.
        is_compressed: Whether they are CompressedImage.
    """

    topic: str
    encoding: str
    count: int
    is_compressed: bool

    @property
    def fault(self) -> str | None:
        """Why these are no camera's pictures; None if they may be."""
        if fault := fault_of_name(self.topic):
            return fault
        if _DEPTH_ENCODING.match(self.encoding):
            return f"its encoding {self.encoding!r} is one of depth images"
        return None


def fault_of_name(topic: str) -> str | None:
    """Why a topic of this name holds no camera's pictures; None if it may."""
    base = topic
    for transport in _TRANSPORTS:
        base = base.removesuffix(transport)
    if base.rsplit("/", 1)[-1] in OWN_OUTPUTS:
        return "it is named like an output of the detector"
    if "ground_truth" in topic.lower():
        return "it is named like ground truth"
    words = {word.lower() for word in _WORD.findall(topic)}
    if found := sorted(words & _NO_COLOUR_CAMERA):
        return f"its name has {found[0]!r} in it"
    return None


def choose(
    candidates: Sequence[Candidate], matched: Callable[[str], int]
) -> tuple[Candidate, list[Candidate]]:
    """The topic of the frames by the rule of this module, and the others.

    Args:
        candidates: At least one, all without a fault.
        matched: How much ground truth belongs to a topic; called only where it matters.
    """
    if len(candidates) == 1:
        return candidates[0], []

    def rank(candidate: Candidate) -> tuple:
        return (
            -matched(candidate.topic),
            bool(_GREY_ENCODING.match(candidate.encoding)),
            -candidate.count,
            candidate.is_compressed,
            candidate.topic,
        )

    first, *others = sorted(candidates, key=rank)
    return first, others
