"""The Grafana dashboard asks for metrics that exist, and for all of ours."""

import importlib.resources
import json
import re
import urllib.request

import pytest

DASHBOARD = json.loads(
    (importlib.resources.files("vllm_script.server") / "grafana.json").read_text()
)
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


@pytest.fixture(scope="module")
def exported(pruning_server):
    """Names of time series by the metric that they belong to."""
    with urllib.request.urlopen(pruning_server.url.removesuffix("/v1") + "/metrics") as reply:
        text = reply.read().decode()
    types = re.findall(r"^# TYPE ((?:script_|vllm:)\S+) (\w+)$", text, re.MULTILINE)
    return {
        name: {name + suffix for suffix in SUFFIXES[kind]}
        for name, kind in types
        if not name.endswith("_created")
    }


@pytest.fixture(scope="module")
def asked_for():
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    found = [re.findall(r'([\w:]+)\{job=~"\$job"\}', query) for query in queries]
    assert all(found)
    return {name for names in found for name in names}


def test_what_it_asks_for_is_exported(exported, asked_for):
    assert asked_for <= set().union(*exported.values())


def test_it_has_all_of_ours(exported, asked_for):
    ours = {name: series for name, series in exported.items() if name.startswith("script_")}
    assert len(ours) > 10
    assert [name for name, series in ours.items() if not series & asked_for] == []


def test_it_can_be_imported():
    """A data source to choose, panels that do not overlap, no identifier of somebody's Grafana."""
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells and at["x"] + at["w"] <= 24
        taken |= cells
    sources = {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"}
    assert sources == {"${datasource}"}
