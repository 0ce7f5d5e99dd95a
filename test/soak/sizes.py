"""How much of everything."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    descriptors: int
    attempts: int
    flood_seconds: float
    crowd: int            # connections whose other side does not read
    rate_seconds: float
    mixed_seconds: float
    storm_seconds: float
    pause_seconds: float
    pauses: int
    transfer_bytes: int
    drips: int
    drip_seconds: float
    idle: int             # connections beside the one that is measured
    measure_seconds: float
    judged: bool = True   # whether figures of time mean anything: not in a second on a machine that does other things


FULL = Sizes(descriptors=20_000, attempts=100_000, flood_seconds=10, crowd=1000, rate_seconds=600, mixed_seconds=3600,
             storm_seconds=20, pause_seconds=5, pauses=3, transfer_bytes=4 << 30, drips=1000, drip_seconds=30, idle=1000,
             measure_seconds=10)
QUICK = dataclasses.replace(FULL, flood_seconds=4, rate_seconds=60, mixed_seconds=60, storm_seconds=5, pause_seconds=2,
                            transfer_bytes=1 << 30, drip_seconds=10, measure_seconds=4)
SMOKE = Sizes(descriptors=600, attempts=4000, flood_seconds=0.5, crowd=100, rate_seconds=2, mixed_seconds=2,
              storm_seconds=0.5, pause_seconds=0.5, pauses=2, transfer_bytes=64 << 20, drips=100, drip_seconds=1.5,
              idle=100, measure_seconds=0.5, judged=False)


def scaled(sizes, factor):
    """The same test with other numbers; what is a rule of the test (how often it pauses) stays."""
    kept = {"pauses", "descriptors", "judged"}
    return dataclasses.replace(sizes, **{
        field.name: type(getattr(sizes, field.name))(max(1, getattr(sizes, field.name) * factor))
        for field in dataclasses.fields(sizes) if field.name not in kept})
