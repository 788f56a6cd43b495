"""The page reader against prometheus_client's parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longhaul_gpuhealth.domain.exposition import MalformedPageError, PageReader
from longhaul_gpuhealth.exporter.fleet import Fleet
from prometheus_client.parser import text_string_to_metric_families

Triple = tuple[str, tuple[tuple[str, str], ...], str]

ODD_PAGE = """# HELP node_x A metric of another exporter.
# TYPE node_x counter

node_x 12.5
  node_infiniband_link_downed_total{device="mlx5_0",port="1"} 3
plain{} 1e-3
quoted{path="C:\\\\dir \\"x\\"",text="two\\nlines, and a } brace"} -7
timed{a="b"} 4 1395066363000
spaced { a = "b" , c = "d" , } +Inf
DCGM_FI_DEV_GPU_TEMP{gpu="0"}\t41
# a comment
DCGM_FI_DEV_SM_CLOCK{gpu="0"} NaN
"""


def bare(name: str) -> str:
    """prometheus_client adds `_total` to counters that lack it, as dcgm-exporter's do."""
    return name.removesuffix("_total")


def ours(reader: PageReader, text: str) -> list[Triple]:
    return sorted((bare(one.name), tuple(sorted(one.labels.items())), repr(value)) for one, value in reader.read(text))


def theirs(text: str) -> list[Triple]:
    return sorted(
        (bare(sample.name), tuple(sorted(sample.labels.items())), repr(float(sample.value)))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def test_pages_of_dcgm_exporter_read_as_prometheus_client_reads_them(fleet: Fleet) -> None:
    reader = PageReader()
    for second in (0.0, 1.0, 2.5, 61.0):
        page = fleet.page("n0", second)
        samples = ours(reader, page)
        assert samples == theirs(page)
        assert len(samples) > 250


def test_unusual_page_read_as_prometheus_client_reads_it() -> None:
    assert ours(PageReader(), ODD_PAGE) == theirs(ODD_PAGE)


def test_layout_that_changes_between_scrapes_is_followed(fleet: Fleet) -> None:
    reader = PageReader()
    first, second = fleet.page("n0", 0.0), fleet.page("n0", 1.0)
    without = "".join(line for line in second.splitlines(keepends=True) if 'gpu="3"' not in line)
    for page in (first, without, ODD_PAGE, second, "", first):
        assert ours(reader, page) == theirs(page)


def test_series_object_is_shared_while_the_layout_stays(fleet: Fleet) -> None:
    reader = PageReader()
    assert reader.read(fleet.page("n0", 0.0)).series is reader.read(fleet.page("n0", 1.0)).series


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ('DCGM_FI_DEV_GPU_TEMP{gpu="0"} 4', "cut off"),
        ("DCGM_FI_DEV_GPU_TEMP\n", "line 1 is no sample"),
        ('a 1\nDCGM_FI_DEV_GPU_TEMP{gpu="0" 41\n', "line 2 is no sample"),
        ('a 1\nb{x="1} 41\n', "line 2 is no sample"),
        ("a 1\nb{x=1} 41\n", "line 2 is no sample"),
        ("a one\n", "line 1 is no sample"),
        ("a 1\n<html>\n", "line 2 is no sample"),
        ("0a 1\n", "line 1 is no sample"),
        ("a 0x12\n", "line 1 is no sample"),
        ("a 1 2 3\n", "line 1 is no sample"),
    ],
)
def test_malformed_page_fails_as_a_whole_and_names_the_line(page: str, says: str, fleet: Fleet) -> None:
    reader = PageReader()
    with pytest.raises(MalformedPageError, match=says):
        reader.read(page)
    good = fleet.page("n0", 0.0)
    with pytest.raises(MalformedPageError):
        reader.read(good + page)
    assert ours(reader, good) == theirs(good)


def test_malformed_page_after_a_good_one_of_equal_length_fails(fleet: Fleet) -> None:
    reader = PageReader()
    good = fleet.page("n0", 0.0)
    reader.read(good)
    comment = next(line for line in good.splitlines() if line.startswith("#"))
    with pytest.raises(MalformedPageError):
        reader.read(good.replace(comment, "rubbish", 1))


label_values = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u2028\u2029\x85"), max_size=12
)


@given(st.lists(st.tuples(label_values, st.floats(allow_nan=True)), max_size=8))
def test_any_label_value_and_float_read_as_prometheus_client_reads_it(rows: list[tuple[str, float]]) -> None:
    lines = []
    for index, (text, value) in enumerate(rows):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        shown = "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")
        lines.append(f'm{index}{{label="{escaped}"}} {shown}\n')
    page = "".join(lines)
    assert ours(PageReader(), page) == theirs(page)
