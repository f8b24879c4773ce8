"""What lives in Slurm's step for a trainer of preloaded.py: passes signals on, ends as it did.

`preloaded_client.py SOCKET RUN_YAML`; imports little, as it starts once a run.
"""

import os
import signal
import socket
import sys
from json import dumps

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def main(address: str, run_yaml: str) -> int:
    """Ask for a trainer and wait; return its code, or die of the signal that it died of."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(address)
    request = {"run_yaml": run_yaml, "env": dict(os.environ)}
    stream.sendall(dumps(request).encode() + b"\n")
    for number in PASSED_ON:
        signal.signal(number, lambda received, _: stream.sendall(b"%d\n" % received))
    code = int(stream.makefile().readline() or "1")
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
