"""A user's terminal, run in a pod: commands of `longhaul`, one after the other, until one of them fails."""

import json
import sys

from longhaul_client.cli.main import main

for command in json.loads(sys.argv[1]):
    print("$ longhaul", *command, flush=True)
    sys.argv = ["longhaul", *command]
    if code := main():
        sys.exit(code)
