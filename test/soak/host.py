"""What may happen to the machine: its link goes, its disk is full, its clock jumps."""

import contextlib
import os
import time

import lab as laboratory

from trial import Transfer, Watch, test


@test("link: the host's interface goes down and comes back", lambda sizes: 120 + 6 * sizes.pause_seconds)
def link(trial):
    trial.echo(7001)
    subject = trial.subject()
    steady = subject.connected()
    size = trial.bytes * 2
    transfers = [Transfer(subject, "out", size, 7101), Transfer(subject, "in", size, 5201),
                 Transfer(subject, "out", size, 7103, version=6)]
    time.sleep(0.2)
    with Watch(subject) as watch:
        with away(trial.lab):
            began = time.monotonic()
            try:
                subject.guest.connect(laboratory.REMOTE4, 7001, timeout=1).close()
                outcome = "connected"
            except TimeoutError:
                outcome = "no answer in 1 s"
            except OSError as error:
                outcome = f"{error.strerror} after {(time.monotonic() - began) * 1000:.0f} ms"
            spent = subject.does_not_spin("while the link is down")
            time.sleep(max(0, trial.sizes.pause_seconds - (time.monotonic() - began)))
        back = time.monotonic()
        subject.lives(steady, "after the link came back")
        waited = time.monotonic() - back
        subject.works("after the link came back")
        good = all([transfer.whole("a transfer while the link was down") for transfer in transfers])
    trial.figure(f"eth0 down for {time.monotonic() - began - (time.monotonic() - back):.0f} s: meanwhile a new connection: "
                 f"{outcome}; processor {spent * 100:.0f} %; memory {watch.most(1):.1f} MiB at most; afterwards "
                 f"an old connection answers after {waited:.1f} s, {'all arrived' if good else 'data was missing'}")


@contextlib.contextmanager
def away(lab):
    """The host's interface is down; with it go its routes and its IPv6 addresses, and they come back."""
    lab.ip("host", "link set eth0 down")
    try:
        yield
    finally:
        lab.ip("host", "link set eth0 up", f"addr add {laboratory.HOST6}/64 dev eth0 nodad",
               f"route add default via {laboratory.GATEWAY4}", f"route add default via {laboratory.GATEWAY6}")


@test("disk: full under the capture and under the log", lambda sizes: 90, links=("tap",))
def disk(trial):
    trial.echo(7001)
    place = os.path.join(trial.lab.dir, "full")
    os.mkdir(place)
    # A file system of its own, seen by nobody but the program: `ip netns exec` gives it mounts of its own.
    small = ["sh", "-c", 'mount -t tmpfs -o size=128k,mode=1777 none "$0" && exec "$@"', place]
    for what, options, quiet in (("capture", ("--pcap", f"{place}/capture"), False),
                                 ("log", ("--trace", "--log-file", f"{place}/log"), False)):
        subject = trial.subject(*options, before=small, quiet=quiet)
        before = subject.resident()
        with Watch(subject) as watch:
            transfer = Transfer(subject, "out", trial.bytes // 16, 7101)
            good = transfer.whole(f"a transfer while the {what} is full")
        subject.works(f"the {what} is full")
        spent = subject.does_not_spin(f"the {what} is full")
        said = [line for line in subject.errors().splitlines() if "capture" in line and ("space" in line or "No " in line)]
        trial.figure(f"{what}: {'all arrived' if good else 'data was missing'}, then {spent * 100:.0f} % of a processor; "
                     f"memory {before:.1f} → {watch.most(1):.1f} MiB"
                     + (f"; message: {'“' + said[0] + '”' if said else 'none'}" if what == "capture" else ""))
        trial.need(what == "log" or said, "nobody was told that the capture ended")
        trial.need(watch.most(1) < before + 32, f"the {what} is full: {watch.most(1):.0f} MiB")
        subject.close()


@test("clock: the wall clock jumps, the machine has been up for years", lambda sizes: 90, links=("tap",))
def clock(trial):
    trial.echo(7001, ports=4)
    jumps = jumping_clock(trial.lab)
    years = 10 * 365 * 86400
    since_start = ["unshare", "--time", "--monotonic", str(years), "--boottime", str(years)]
    for what, before in (("wall clock that jumps ten years to and fro, four times a second",
                          ["env", f"LD_PRELOAD={jumps}"]),
                         ("ten years after the machine's start", since_start)):
        subject = trial.subject("--pcap", trial.lab.file("capture"), before=before)
        steady, started = subject.connected(), time.monotonic()
        transfer = Transfer(subject, "out", trial.bytes // 16, 7101)
        done = trial.lab.traffic(subject.guest, "tcp-crr", "--connect", f"{laboratory.REMOTE4}:7001", "--ports", 4,
                                 "--count", 1000, "--parallel", 8)
        trips = trial.lab.traffic(subject.guest, "udp-rr", "--connect", f"{laboratory.REMOTE4}:7002", "--count", 1000)
        good = transfer.whole(what)
        time.sleep(max(0, trial.sizes.pause_seconds - (time.monotonic() - started)))
        subject.lives(steady, what)
        subject.works(what)
        spent = subject.does_not_spin(what)
        trial.figure(f"{what}: {'all arrived' if good else 'data was missing'}, {done['failed']} of {done['count']} "
                     f"connections failed, {trips['lost']} of {trips['count']} datagrams lost, then {spent * 100:.0f} % of a "
                     f"processor")
        trial.need(done["failed"] == 0 and trips["lost"] == 0, f"{what}: flows failed")
        subject.close()


def jumping_clock(lab):
    """A library that the program is started with: CLOCK_REALTIME is ten years ahead every other eighth of a second. This
    machine's clock stays what it is."""
    source = lab.file("clock") + ".c"
    with open(source, "w", encoding="ascii") as file:
        file.write("""
            #define _GNU_SOURCE
            #include <time.h>
            #include <unistd.h>
            #include <sys/syscall.h>
            #include <sys/time.h>
            static long ahead(const struct timespec *t) { return t->tv_nsec / 125000000 % 2 ? 315360000 : 0; }
            static int real(clockid_t id, struct timespec *t) {
                static int (*next)(clockid_t, struct timespec *);
                extern void *dlsym(void *, const char *);
                if (!next) *(void **)&next = dlsym((void *)-1l, "clock_gettime");
                return next(id, t);
            }
            int clock_gettime(clockid_t id, struct timespec *t) {
                int r = real(id, t);
                if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += ahead(t);
                return r;
            }
            int gettimeofday(struct timeval *restrict v, void *restrict zone) {
                struct timespec t;
                (void)zone;
                int r = clock_gettime(CLOCK_REALTIME, &t);
                v->tv_sec = t.tv_sec, v->tv_usec = t.tv_nsec / 1000;
                return r;
            }
            time_t time(time_t *to) {
                struct timespec t;
                clock_gettime(CLOCK_REALTIME, &t);
                if (to) *to = t.tv_sec;
                return t.tv_sec;
            }
            """)
    library = os.path.join(lab.dir, "clock.so")
    lab.call(["cc", "-shared", "-fPIC", "-O1", "-o", library, source])
    os.chmod(library, 0o755)
    return library
