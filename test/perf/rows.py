"""The rows of the table."""

from measurements import attach, bulk, connections, delayed, memory_idle, memory_per_flow, round_trip, start, tcp, udp


def rows():
    """(id, title, unit, unit of cpu, better, MTU, how); an MTU of None has no path."""
    for direction in ("out", "in"):
        for mtu in (1500, 65520):
            for version in (4, 6):
                for streams in (1, 4):
                    name = f"tcp-{direction}-{mtu}-v{version}-{streams}"
                    title = f"TCP {direction}, MTU {mtu}, IPv{version}, {streams} stream{'s' if streams > 1 else ''}"
                    yield name, title, "Gb/s", "CPU s/GB", "more", mtu, tcp(direction, version, streams)
    for direction in ("out", "in"):
        for delay in (10, 50):
            yield (f"delay-{direction}-{delay}", f"TCP {direction}, {delay} ms round trip, 0.1 % loss", "Mb/s", None, "more",
                   65520, delayed(direction, delay))
    for direction in ("out", "in"):
        for size in (64, 1400):
            yield (f"udp-{direction}-{size}", f"UDP {direction}, {size} bytes", "kpps", "CPU µs/packet", "more", 65520,
                   udp(direction, size))
    yield "udp-out-gso", "UDP out, 1400 bytes, 16 at a time (GSO)", "kpps", "CPU µs/packet", "more", 65520, \
        udp("out", 1400, 16)
    for tool in ("tcp-rr", "udp-rr"):
        for version in (4, 6):
            yield (f"{tool}-v{version}", f"{tool[:3].upper()} round trip, IPv{version}, p50", "µs", None, "less", 65520,
                   round_trip(tool, version))
    for parallel in (1, 32):
        yield f"crr-{parallel}", f"connect, ask, close; {parallel} in flight", "k/s", "CPU µs each", "more", 65520, \
            connections(parallel)
    for direction in ("splice-out", "splice-in"):
        for version, streams in ((4, 1), (6, 1), (4, 4)):
            name = f"tcp-{direction}-v{version}-{streams}"
            title = f"TCP {direction}, IPv{version}, {streams} stream{'s' if streams > 1 else ''}"
            yield name, title, "Gb/s", "CPU s/GB", "more", 65520, tcp(direction, version, streams)
        for tool in ("tcp-rr", "udp-rr"):
            yield (f"{tool}-{direction}", f"{tool[:3].upper()} round trip, {direction}, p50", "µs", None, "less", 65520,
                   round_trip(tool, 4, direction))
        yield (f"udp-{direction}-1400", f"UDP {direction}, 1400 bytes", "kpps", "CPU µs/packet", "more", 65520,
               udp(direction, 1400))
        yield f"crr-{direction}", f"connect, ask, close; 32 in flight, {direction}", "k/s", "CPU µs each", "more", \
            65520, connections(32, direction)
    for direction in ("out", "in"):
        yield f"bulk-{direction}", f"1000 × 100 kB at once, {direction}", "s", None, "less", 65520, bulk(direction)
    yield "memory-idle", "memory, idle (PSS)", "MiB", None, "less", 65520, memory_idle
    yield "memory-flow", "memory of an idle flow", "B", None, "less", 65520, memory_per_flow
    yield "start", "start: `run -- true`", "ms", None, "less", None, start
    yield "attach", "start: attach", "ms", None, "less", None, attach
