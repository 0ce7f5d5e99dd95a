"""demo/containers, as its reader would run it: in a clone in the user's home, in a terminal."""

import os
import re
import sys

import lab
from checks import check, expect

sys.path.append(os.path.join(lab.ROOT, "test", "demo"))
import cast  # noqa: E402  (found through the path above)

LIMIT = 60
# In this order.
SHOWN = (r"This runs as user, not as root\.", r"/bin/pasta\n", r"target/release/spelt\n", rf"inet {re.escape(lab.HOST4)}/24",
         rf"default via {re.escape(lab.GATEWAY4)} dev eth0", r"\n[0-9a-f]{12}\n", r"\nhello from a container\n",
         r"pasta --config-net", r"-t 18080-18080:80-80", r"\nhello from the machine\n", r"\$ podman rm -f -t 0 web\nweb\n")


@check("demo/containers")
def demo(world):
    for name in ("containers", "lib.sh"):
        world.copy(os.path.join(lab.ROOT, "demo", name), f"/home/user/spelt/demo/{name}", 0o755)
    world.copy(world.lab.program.path, "/home/user/spelt/target/release/spelt", 0o755)
    shown = cast.record("Rootless containers of Podman", world.argv("cd spelt && exec demo/containers"), LIMIT)
    text = shown.text()
    world.transcript.append(text)
    expect(shown.status is not None, f"it did not end within {LIMIT} s")
    expect(shown.status == 0, f"its status is {shown.status}")
    expect(re.search(r"(?s:.*?)".join(SHOWN), text), "it does not show what it should, in order")
    wide = [line for line in text.split("\n") if len(line) > cast.COLUMNS]
    expect(not wide, f"lines are longer than {cast.COLUMNS} columns: {wide}")
    expect(not world.translators(), "a translator runs still")
    if os.environ.get("SPELT_CASTS"):
        shown.write(os.path.join(os.environ["SPELT_CASTS"], "containers.cast"))
