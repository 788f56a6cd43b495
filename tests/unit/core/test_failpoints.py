"""Failpoints: the setting is checked, and only an armed point kills."""

import subprocess
import sys
from enum import StrEnum

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_core.failpoints import Failpoints


class Point(StrEnum):
    ONE = "one.point"


@pytest.mark.parametrize("text", ["other", "one.point:0", "one.point:x", "one.point,other"])
def test_point_that_the_program_lacks_is_refused(text):
    with pytest.raises(InvalidArgument) as caught:
        Failpoints.parse(text, Point)
    assert caught.value.reason == "FAILPOINT_UNKNOWN"


def test_armed_point_kills_when_it_is_reached_often_enough():
    program = (
        "from enum import StrEnum\n"
        "from longhaul_core.failpoints import Failpoints\n"
        "Point = StrEnum('Point', {'ONE': 'one.point', 'TWO': 'two.point'})\n"
        "points = Failpoints.parse('one.point:2', Point)\n"
        "for point in (Point.TWO, Point.ONE, Point.ONE):\n"
        "    print(point, flush=True)\n"
        "    points.reach(point)\n"
        "print('survived')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert done.stdout.split() == ["two.point", "one.point", "one.point"]
