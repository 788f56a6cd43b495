"""The report: charts are well-formed, say what they show, and user text cannot break the page."""

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from longhaul.evaluation.v1 import evaluation_pb2
from longhaul.training.v1 import training_run_pb2
from longhaul_client.pipeline import Pipeline
from longhaul_client.report import ReportData, render
from longhaul_client.report.charts import Bar, Chart, Level, Marker, Series, line_chart, ranked_bars, stacked_bar

VOID = {"meta", "br", "img", "line", "circle", "polyline"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def balanced(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def data(**changes) -> ReportData:
    run = training_run_pb2.TrainingRun()
    run.metadata.name = "projects/default/trainingRuns/docs"
    run.status.state = training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED
    run.status.step = run.status.total_steps = 3
    run.status.time.productive_seconds, run.status.time.recovery_seconds = 90, 10
    run.spec.recipe = "name: docs # </pre><script>alert(1)</script>\n"
    pipeline = Pipeline("default", *("projects/default/x/docs",) * 6)
    rows = [training_run_pb2.StepMetrics(step=s, loss=5 - s, tokens_per_second=100) for s in (1, 2, 3)]
    return ReportData(**{"pipeline": pipeline, "run": run, "metrics": rows, "events": [], **changes})


def test_line_chart_is_well_formed_and_holds_every_point():
    chart = Chart(
        "Loss", "step", "nats", [Series("train", [1, 2, 3], [3.0, 2.0, 1.0])], [Marker(2, "kill")], [Level(4, "H")]
    )
    figure = ElementTree.fromstring(line_chart(chart))
    (line,) = figure.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 3
    assert points[0][1] < points[1][1] < points[2][1], "a falling loss must go down the page"
    labels = [text.text for text in figure.iter("text")]
    assert {"kill", "H", "step", "nats"} <= set(labels)


def test_spike_survives_thinning():
    values = [1.0] * 5000
    values[2345] = 9.0
    figure = ElementTree.fromstring(line_chart(Chart("x", "", "", [Series("s", list(range(5000)), values)])))
    (line,) = figure.iter("polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) <= 800
    assert min(heights) < max(heights) - 100


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 2e-9], [-1e12, 1e12]])
def test_chart_of_odd_ranges_is_drawn(values: list[float]):
    ElementTree.fromstring(line_chart(Chart("x", "", "", [Series("s", list(range(len(values))), values)])))


def test_chart_without_points_says_so():
    assert "no data yet" in line_chart(Chart("x", "", "", [Series("s", [], [])]))


def test_bars_share_the_whole():
    bar = stacked_bar([Bar("a", 3, "3"), Bar("b", 1, "1")])
    assert "width:75.000%" in bar
    assert "width:25.000%" in bar
    assert "no data yet" in stacked_bar([Bar("a", 0, "0")])
    assert "width:100.00%" in ranked_bars([Bar("a", 3, "3")])


def test_page_is_balanced_and_escapes_what_users_wrote():
    page = render(data())
    seen = balanced(page).seen
    assert seen.count("script") == 1
    assert "&lt;script&gt;alert(1)" in page
    assert "90.0%" in page
    assert "http" not in page.split("<main>")[0], "a report fetches nothing"


def test_page_shows_faults_scores_and_differences():
    filled = data()
    filled.run.status.incidents.add(
        number=1, cause="WORKER_EXITED", message="worker 1 was killed", detect_seconds=0.5, fault_step=2, resume_step=1
    )
    point = filled.curve.points.add(step=2)
    point.scores.add(task="cloze", metric="acc", value=0.3, standard_error=0.05, chance=0.25)
    difference = evaluation_pb2.PairedDifference(task="cloze", metric="acc", difference=0.1, standard_error=0.02)
    page = render(data(run=filled.run, curve=filled.curve, differences=[difference]))
    balanced(page)
    assert "worker 1 was killed" in page
    assert "chance" in page
    assert "+0.1000 ± 0.0200" in page
