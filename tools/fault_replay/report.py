# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reliability.md, made from faults.json alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tools.fault_replay.frames import BAD_FORMS, GOOD_FORMS
from tools.fault_replay.plan import EVENT_INTERVALS, FRAME_SHARES

MARKS = "<!-- faults:begin -->", "<!-- faults:end -->"  # of the tables in a document
NOTHING_LEFT = "as after the first"
_ENTITIES = ("publishers", "subscriptions", "services", "clients", "timers")


def summary(results: Mapping[str, Any]) -> list[str]:
    """The results in a few lines."""
    replay, restarts, same = (results[name] for name in ("replay", "restarts", "reproducibility"))
    memory, handles = replay["memory"], replay["handles"]
    # A run that ended early may lack counts.
    node, connected = Counter(replay["node"]), Counter(replay["while_connected"])
    return [
        f"{replay['frames']:,} frames in {replay['seconds']:.0f} s "
        f"({replay['frames'] / replay['seconds']:.0f} frames/s), "
        f"{sum(replay['injected'].get(n, 0) for n in EVENT_INTERVALS):,} other faults",
        f"received {node['received']:,} = " + " + ".join(
            f"{node[name]:,} {name}"
            for name in ("processed", "dropped", "throttled", "unwatched", "bad", "failed")
        ),
        f"while all were connected: {connected['processed']:,} processed, "
        f"{connected['published']:,} answers published, each once; another process heard "
        f"{connected['heard']:,}",
        f"violations: {replay['violation_count']} in {replay['sums_compared']} closed sums and "
        f"{sum(replay['answers'].values()):,} answers",
        f"memory after the warm-up: {memory['warm_mib']:.0f} MiB, at the end "
        f"{memory['last_mib']:.0f} MiB ({100 * memory['growth']:+.2f} %)",
        f"threads, files and ROS entities after the last cleanup: {handles_verdict(handles)}",
        f"detector killed and restarted {restarts['kills']} times: "
        f"{', '.join(map(str, restarts['answered_by_life']))} of "
        f"{restarts['frames_of_a_life']} frames answered by its lives, "
        f"violations: {restarts['violation_count']}",
        f"same frames, two processes: {same['frames'] - same['different']} of {same['frames']} "
        "with the same bytes",
    ]  # fmt: skip


def handles_verdict(handles: Mapping[str, Any]) -> str:
    """Whether the last cleanup left what the first one left."""
    first, last = handles.get("cleaned_up_first", {}), handles.get("cleaned_up_last")
    if last is None:
        return "not reached"
    more = [
        f"{name} {_count(first[name])} -> {_count(last[name])}"
        for name in ("python_threads", "native_threads", "open_files", *_ENTITIES)
        if _count(last[name]) > _count(first[name])
    ]
    return "; ".join(more) or NOTHING_LEFT


def tables(results: Mapping[str, Any]) -> str:
    """All tables in Markdown."""
    replay = results["replay"]
    injected, sent, node = replay["injected"], replay["sent"], replay["node"]
    good = [*GOOD_FORMS, *(n for n in FRAME_SHARES if n not in GOOD_FORMS | BAD_FORMS)]
    machine = replay["machine"]
    handles = replay["handles"]
    parts = [
        "\n".join(f"- {line}" for line in summary(results)),
        f"Seed {replay['options']['seed']}, plan `{replay['plan_sha256'][:16]}`; "
        f"Python {machine['python']}, torch {machine['torch']}, NumPy {machine['numpy']}, "
        f"{machine['system']}.",
        "### Injected",
        _table(("good frames", "times"), [(n, injected.get(n, 0)) for n in good]),
        _table(("bad frames", "times"), [(n, injected.get(n, 0)) for n in BAD_FORMS]),
        _table(("other faults", "times"), [(n, injected.get(n, 0)) for n in EVENT_INTERVALS]),
        "### What became of the frames",
        _table(
            ("published", "frames"),
            [
                ("that had to reach the node", sent.get("certain", 0)),
                ("around a connect or disconnect", sent.get("uncertain", 0)),
                ("while nobody listened", sent.get("unheard", 0)),
            ],
        ),
        _table(("counted by the node", "frames"), list(node.items())),
        _table(("answers on", "heard"), list(replay["answers"].items())),
        "### What the process holds",
        _table(
            ("", "after the first cleanup", "after the last", "after the node's end"),
            [
                (name.replace("_", " "), *(_cell(handles, when, name) for when in (
                    "cleaned_up_first", "cleaned_up_last", "after")))
                for name in ("python_threads", "native_threads", "open_files", *_ENTITIES)
            ],
        ),
    ]  # fmt: skip
    if replay["violations"]:
        parts += ["### Violations", "\n".join(f"- {line}" for line in replay["violations"])]
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _count(value: int | Sequence[str]) -> int:
    return value if isinstance(value, int) else len(value)


def _cell(handles: Mapping[str, Any], when: str, name: str) -> object:
    held = handles.get(when, {})
    return _count(held[name]) if name in held else ""
