"""`terra.explain`: what a function has learned, in words."""

from __future__ import annotations

from collections import Counter
from typing import Any


def explain(fn: Any) -> str:
    """Describe the paths of a decorated function: how often they ran, what diverged and where, what is compiled.

    Raises:
        TypeError: `fn` was not made by `terra.function`.
    """
    from terra._function import TerraFunction

    if not isinstance(fn, TerraFunction):
        raise TypeError(f"terra.explain needs a function decorated with terra.function, got {type(fn).__name__}")
    session = fn._session
    stats, segments = fn.stats(), session.segments()
    lines = [
        f"{getattr(fn, '__qualname__', fn)}: {stats['regions_coexecuted']} calls co-executed, "
        f"{stats['regions_recorded']} recorded, {stats['regions_failed']} failed",
        f"graph: {stats['graph_nodes']} nodes in {len(segments)} segments, "
        f"{stats['kernels_compiled']} kernels compiled in {stats['compile_seconds']:.2f} s"
        + (f" ({stats['kernels_from_disk']} different ones came from the disk)" if stats["kernels_from_disk"] else ""),
    ]
    if stats["sizes"] > 1:
        lines.append(
            f"sizes: the same calls are known for up to {stats['sizes']} different sizes; "
            f"{stats['segments_inherited']} times one took over what another had learned"
        )
    if stats["verdicts"]:
        lines.append(_compared(stats))
    if stats["spans"]:
        lines.append(
            f"recognised as a whole: {stats['spans']} calls, backwards and optimizer steps, "
            f"which stand for {stats['span_events']} of {stats['events']} events"
        )
    if stats["kernels_left"]:
        lines.append(f"{stats['kernels_left']} kernels were left to PyTorch: the compile budget was spent")
    divergences = sorted(session.divergences().items(), key=lambda item: -item[1])
    if divergences:
        lines.append("left the graph:")
        lines += [f"  {count} x {reason}" for reason, count in divergences]
    left = sorted(session.left_backwards().items(), key=lambda item: -item[1])
    if left:
        lines.append("backwards that were left to PyTorch's engine:")
        lines += [f"  {count} x {reason}" for reason, count in left]
    for number, segment in enumerate(segments):
        lines += _describe(number, segment)
    return "\n".join(lines)


def _compared(stats: dict[str, Any]) -> str:
    graph, eager = stats["graph_call_seconds"], stats["eager_call_seconds"]
    times = f"a call takes {graph * 1e6:.0f} µs with the graph, {eager * 1e6:.0f} µs without"
    if stats["given_back"]:
        return f"given back to eager: {times}; {stats['regions_eager']} calls ran eagerly"
    return f"compared with eager: {times}"


def _describe(number: int, segment: dict[str, Any]) -> list[str]:
    events = segment["events"]
    if len(events) == 1 and events[0][2]:
        name, location, _ = events[0]
        return [f"segment {number}: {name} runs on the Python thread (gate)" + (f", {location}" if location else "")]
    kinds = Counter(kind for kind, _, _ in segment["instructions"])
    externs = Counter(events[covered[0]][0] for kind, covered, _ in segment["instructions"] if kind == "extern")
    state = "compiled" if segment["compiled"] else "not compiled yet"
    line = (
        f"segment {number}: {len(events)} events, walked {segment['walks']} times, {state}: "
        f"{kinds['kernel']} kernels, {kinds['extern']} externs, {kinds['nothing']} views"
    )
    most = ", ".join(f"{name} x{count}" for name, count in externs.most_common(6))
    covered = {event for first, count, _ in segment["spans"] for event in range(first, first + count)}
    singly = Counter(name for event, (name, _, _) in enumerate(events) if event not in covered)
    one_by_one = ", ".join(f"{name} x{count}" for name, count in singly.most_common(6))
    if segment["compile_error"]:
        line += f"\n  the compiler gave it up: {segment['compile_error'].strip()}"
    lines = [line] + ([f"  externs: {most}"] if most else [])
    return lines + ([f"  recognised one by one, below autograd: {one_by_one}"] if covered and one_by_one else [])
