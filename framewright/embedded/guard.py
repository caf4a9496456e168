"""A small process that outlives its parent for as long as it takes to end what the parent left running.

`python -m framewright.embedded.guard` reads JSON lines on stdin: `{"add": {ward}}` and `{"drop": pid}`. When the pipe
closes or the parent dies, even of SIGKILL, it ends every ward it knows and exits. It also inherits the lock of the data
directory, so nobody starts on that directory before it is done.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from framewright.embedded.wards import Ward, end

# Only for a parent whose fork kept the pipe open; otherwise the closed pipe wakes us at once.
_LOOK_AROUND_S = 2.0


def watch(pipe: int, parent: int) -> list[Ward]:
    """The wards that are left when the pipe closes or `parent` is no longer our parent."""
    wards: dict[int, Ward] = {}
    rest = b""
    while os.getppid() == parent:
        if not select.select([pipe], [], [], _LOOK_AROUND_S)[0]:
            continue
        read = os.read(pipe, 65536)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "add" in message:
                ward = Ward(**message["add"])
                wards[ward.pid] = ward
            else:
                wards.pop(message["drop"], None)
    return list(wards.values())


def main() -> None:
    """Wait for the end of the parent, then tidy up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end(watch(sys.stdin.fileno(), int(sys.argv[1])))


if __name__ == "__main__":
    main()
