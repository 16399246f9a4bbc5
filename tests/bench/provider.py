"""The credential provider of the benchmark: `provider.py CERTIFICATE KEY CLIENT_CA`.

Prints its address, then serves until its stdin is closed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit/rotator"))

from faultserver import FaultServer


def main() -> None:
    """Serve."""
    certificate, key, client_ca = (Path(name) for name in sys.argv[1:])
    server = FaultServer(certificate, key, client_ca)
    print(server.endpoint, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
