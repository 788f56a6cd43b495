"""The demo: a real crawl through all services to an evaluated model, with two real faults on the way.

Usage: python examples/python-docs/demo.py [--data-dir DIR] [--clean]

Ends with `demo: ok` and exit code 0 only if every check held. Run again with its data in place, it attaches to what is
done and checks it again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from checks import all_checks
from faults import FaultInjector, FaultRecord
from longhaul_client import Client, read_recipe, submit
from longhaul_client.local import Layout, UpOptions, down, up
from longhaul_client.local.control import AUTO_PORTS
from longhaul_client.report import collect, render
from longhaul_core.errors import LonghaulError

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "recipe.yaml"
NODES = 4


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path(".longhaul/demo"))
    parser.add_argument("--clean", action="store_true", help="remove what an earlier demo left")
    arguments = parser.parse_args()
    data_dir = arguments.data_dir.absolute()
    if arguments.clean and data_dir.exists():
        down(data_dir)
        shutil.rmtree(data_dir)
    started = time.monotonic()
    try:
        passed = run_demo(data_dir)
    except LonghaulError as error:
        print(f"error: {error}\nto start anew: make demo CLEAN=1")
        passed = False
    finally:
        down(data_dir)
    print(f"\ntook {time.monotonic() - started:.0f} s")
    print("demo: ok" if passed else "demo: FAILED")
    return 0 if passed else 1


def run_demo(data_dir: Path) -> bool:
    """Take the crawl through the pipeline and check what came out."""
    options = UpOptions(port_base=AUTO_PORTS, nodes=NODES, scenario=str(HERE / "scenario.yaml"))
    layout, _ = up(data_dir, options, given=frozenset({"nodes", "scenario"}))
    print(f"six services and {NODES} pretend nodes are up; logs are in {layout.log_dir}\n", flush=True)
    longhaul(layout, "plan", str(RECIPE))
    with Client.local(data_dir) as client:
        pipeline = submit(client, read_recipe(RECIPE))
        injector = FaultInjector(client, pipeline.run, layout.exporter_address)
        injector.start()
        ended = longhaul(layout, "run", str(RECIPE))
        faults = remembered(data_dir, injector.finish())
        data = collect(client, pipeline.run)
    longhaul(layout, "nodes")
    report = data_dir / "report.html"
    report.write_text(render(data), encoding="utf-8")
    print("\nchecks")
    passed = ended == 0
    for name, check in all_checks(data, faults, data_dir):
        try:
            print(f"  ok      {name}: {check()}")
        except AssertionError as error:
            passed = False
            print(f"  FAILED  {name}: {error}")
    print(f"\nreport: {report}")
    return passed


def remembered(data_dir: Path, faults: FaultRecord) -> FaultRecord:
    """Keep what was broken, so that a second demo, which breaks nothing, can check the first one's run."""
    path = data_dir / "faults.json"
    if path.exists():
        earlier = FaultRecord(**json.loads(path.read_text()))
        faults.killed_pid = faults.killed_pid or earlier.killed_pid
        faults.lost_node = faults.lost_node or earlier.lost_node
        faults.last_nodes = faults.last_nodes or earlier.last_nodes
    path.write_text(json.dumps(asdict(faults)))
    return faults


def longhaul(layout: Layout, *arguments: str) -> int:
    """Run the `longhaul` command as a user would, and show what it prints."""
    print(f"$ longhaul {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "longhaul_client", "--data-dir", str(layout.data_dir), *arguments]
    exit_code = subprocess.run(command, check=False).returncode
    print(flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
