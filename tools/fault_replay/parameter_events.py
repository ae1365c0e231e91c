"""Parameters, accepted and refused."""

from __future__ import annotations

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue

from tools.fault_replay.bench import Bench
from tools.fault_replay.events import SOME, event
from tools.fault_replay.network import CALIBRATED


@event("valid parameter")
def _valid_parameter(bench: Bench, variant: int) -> None:
    share = variant % 101 / 100
    choices: tuple[tuple[str, object], ...] = (
        ("threshold", share),
        ("target_tpr", 0.01 + 0.89 * share if variant % 2 else 0.0),
        ("overlay_alpha", share),
        ("jpeg_quality", 1 + variant % 100),
        ("max_rate", (0.0, 1000.0)[variant % 2]),
        ("score_method", ("auto", *CALIBRATED)[variant % (1 + len(CALIBRATED))]),
    )
    name, value = choices[(variant >> 8) % len(choices)]
    bench.set_parameter(name, value, accepted=True)
    if name == "max_rate":
        bench.is_throttled = value != 0.0


@event("rate limited")
def _rate_limited(bench: Bench, variant: int) -> None:
    bench.settle()
    before = bench.link.totals["throttled"]
    bench.set_parameter("max_rate", 1.0, accepted=True)
    bench.is_throttled = True
    bench.ask_plain(SOME, variant)
    bench.settle()
    if bench.link.totals["throttled"] == before:
        bench.ledger.violate("a rate limit of 1 Hz let everything pass")
    bench.set_parameter("max_rate", 0.0, accepted=True)
    bench.is_throttled = False


@event("refused parameter")
def _refused_parameter(bench: Bench, variant: int) -> None:
    choices: tuple[tuple[str, object], ...] = (
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("threshold", True),
        ("threshold", "high"),
        ("overlay_alpha", -0.1),
        ("jpeg_quality", 0),
        ("jpeg_quality", True),
        ("max_rate", [1.0, 2.0]),
        ("max_rate", float("inf")),
        ("score_method", "magic"),
        ("score_method", "dense_hybrid"),
        ("model", "default"),
        ("image_transport", "compressed"),
        ("qos_depth", 5),
        ("autostart", "yes"),
        ("device", [b"c", b"p", b"u"]),
    )
    bench.set_parameter(*choices[variant % len(choices)], accepted=False)


@event("unknown parameter")
def _unknown_parameter(bench: Bench, variant: int) -> None:
    not_set = ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.5)
    choices = (
        ParameterMessage(name="treshold", value=number),
        ParameterMessage(name="", value=number),
        ParameterMessage(name="x" * 10000, value=number),
        ParameterMessage(name="threshold", value=not_set),
        ParameterMessage(name="threshold", value=ParameterValue(type=77)),
        ParameterMessage(name="\N{SNOWMAN} / ..", value=number),
    )
    parameter = choices[variant % len(choices)]
    accepted, _ = bench.link.set_parameter(parameter)
    if accepted:
        bench.ledger.violate(f"parameter {parameter.name[:20]!r} of no type was accepted")
