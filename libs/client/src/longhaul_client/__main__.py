"""`python -m longhaul_client`: the `longhaul` command."""

import sys

from longhaul_client.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
