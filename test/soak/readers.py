"""One side that does not read, or reads and writes very slowly, and others who do."""

import select
import time

import lab as laboratory

from trial import Transfer, Watch, percentile, test


@test("stalled: guest or remote stops reading", lambda sizes: 90 + 6 * sizes.pause_seconds)
def stalled(trial):
    trial.echo(7001)
    subject = trial.subject()
    steady = subject.connected()
    pause, size = trial.sizes.pause_seconds * 2, trial.bytes // 8
    for direction, who, port in (("out", "the remote", 7101), ("in", "the guest", 5201)):
        before = subject.resident()
        with Watch(subject) as watch:
            transfer = Transfer(subject, direction, size, port, streams=8, stall_ms=int(pause * 1000))
            time.sleep(pause / 2)
            trial.need(transfer.is_alive(), f"{who} did not stall")
            subject.lives(steady, f"{who} does not read")
            took = subject.works(f"{who} does not read")
            beside = trial.lab.traffic(subject.guest, "tcp-rr", "--connect", f"{laboratory.REMOTE4}:7001", "--count",
                                       100_000, "--seconds", max(1, int(pause / 4)))
            spent = subject.does_not_spin(f"{who} does not read") if pause > 3 else 0.0
            good = transfer.whole(f"{who} reads on")
        trial.figure(f"{who} does not read 8 streams for {pause:.0f} s: memory {before:.1f} → {watch.most(1):.1f} MiB at "
                     f"most, new flows in {took:.2f} s, round trip p99 {beside['p99_us']:.0f} µs, processor "
                     f"{spent * 100:.0f} %; {'then all arrived' if good else 'then data was missing'}")
        trial.need(watch.most(1) < before + 32, f"{who} does not read: {watch.most(1):.0f} MiB")
        trial.need(beside["count"] > 100, f"{who} does not read: only {beside['count']} round trips beside it")


@test("drip: a thousand connections, a byte a second each", lambda sizes: 90 + 3 * sizes.drip_seconds)
def drip(trial):
    trial.echo(7001)
    subject = trial.subject()
    count, seconds = trial.sizes.drips, trial.sizes.drip_seconds
    streams = [subject.connected() for _ in range(count)]
    alone = trickle(streams, seconds)
    transfer = Transfer(subject, "out", trial.bytes * 4, 7101, seconds=int(seconds * 3) + 60)
    beside = trickle(streams, seconds)
    trial.need(transfer.is_alive() or transfer.found, f"the transfer ended: {transfer.error}")
    if not transfer.whole("the transfer beside them"):
        return
    for name, (sent, times, wrong) in (("alone", alone), ("beside a transfer", beside)):
        trial.figure(f"{name}: {sent:,} bytes of {count:,} connections, answered after {percentile(times, 0.5) * 1000:.1f} ms "
                     f"(p50) and {percentile(times, 0.99) * 1000:.1f} ms (p99)")
        trial.need(not wrong and len(times) == sent, f"{name}: {sent - len(times)} bytes were not answered, {wrong} wrong")
    trial.figure(f"transfer {transfer.size * 8e-9 / transfer.took:.1f} Gb/s")
    trial.need(percentile(beside[1], 0.99) < 0.5, "a byte waited for half a second beside the transfer")


def trickle(streams, seconds):
    """Each stream says one byte a second, in turn; returns what was said, how long the answers took, and wrong ones."""
    poll, asked, times, wrong = select.epoll(), {}, [], 0
    by_number = {stream.fileno(): stream for stream in streams}
    for stream in streams:
        stream.setblocking(False)
        poll.register(stream, select.EPOLLIN)
    began, sent, after = time.monotonic(), 0, 0
    while True:
        now = time.monotonic()
        due = min(int((now - began) * len(streams)), int(seconds * len(streams)))
        while sent < due:
            stream = streams[sent % len(streams)]
            if stream.fileno() in asked:
                # The last one is still on its way: no second one, or nobody would know which came back.
                sent += 1
                after += 1
                continue
            asked[stream.fileno()] = time.monotonic()
            stream.send(bytes([sent % 251]))
            sent += 1
        for number, _ in poll.poll(0.002):
            piece = by_number[number].recv(10)
            if len(piece) != 1 or number not in asked:
                wrong += 1
                poll.unregister(number)
            if number in asked:
                times.append(time.monotonic() - asked.pop(number))
        if now > began + seconds + 5 or sent >= int(seconds * len(streams)) and not asked:
            break
    poll.close()
    return sent - after, times, wrong
