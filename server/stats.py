"""GET /v1/script/stats: the settings in force and the script_* figures of /metrics, as JSON."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from vllm.v1.metrics.prometheus import get_prometheus_registry

from .observe import refresh

router = APIRouter()


@router.get("/v1/script/stats")
async def stats(raw_request: Request) -> JSONResponse:
    """The settings of the server, and its counters, gauges, and sums and counts of histograms."""
    engine_client = raw_request.app.state.engine_client
    await refresh(engine_client)
    settings = engine_client.model_config.vllm_script
    return JSONResponse({"settings": settings, "metrics": _figures()})


def _figures() -> dict[str, Any]:
    """Figures by name as on /metrics; of one with labels, a list of them with their values."""
    figures: dict[str, Any] = {}
    for family in get_prometheus_registry().collect():
        if not family.name.startswith("script_"):
            continue
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_created")):
                continue
            if sample.labels:
                row = {**sample.labels, "value": sample.value}
                figures.setdefault(sample.name, []).append(row)
            else:
                figures[sample.name] = sample.value
    return figures
