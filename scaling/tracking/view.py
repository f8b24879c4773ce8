"""The view of a study that MLflow's page opens with: run table and charts, best run first."""

import json

Chart = dict[str, bool | int | str | list[str] | dict[str, str]]  # of MLflow's page
VIEW_KEY = "runs"
# Left to itself the page shows one folded row and no metric. Sorting by a metric unfolds the runs;
# the filter leaves out their parent.
TABLE = {
    "searchFilter": "tags.run_key LIKE '%'",
    "orderByKey": "metrics.`val/l1`",
    "orderByAsc": True,
    "runsHiddenMode": "FIRST_20_RUNS",
    "selectedColumns": [
        *(f"metrics.`{name}`" for name in ("val/l1", "val/l1_sem", "test/l1")),
        "params.`size`",
        "params.`num_params_total`",
        "params.`num_unique_episodes`",
        "params.`num_domains`",
        "params.`num_samples_seen`",
        "params.`seed`",
    ],
}
SECTION_ID = "study"
SECTION = {"uuid": SECTION_ID, "name": "Study", "display": True, "isReordered": False}
AXES = ("num_params_total", "num_unique_episodes", "num_domains", "num_samples_seen")
CURVES = ("val/l1", "loss/train", "throughput/samples_per_s")
NUM_RUNS = 20  # drawn at once


def experiment_tags() -> dict[str, str]:
    """Return the tags that give an experiment its kind and its view."""
    charts = [*map(_curve, CURVES), *map(_against_error, AXES)]
    view = {**TABLE, "compareRunCharts": charts, "compareRunSections": [SECTION]}
    view["isAccordionReordered"] = True  # else sections stand by the alphabet
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(view),
    }


def _card(kind: str, name: str) -> Chart:
    """Return what every chart of MLflow's page has."""
    return {
        "type": kind,
        "uuid": f"{kind} {name}",
        "metricSectionId": SECTION_ID,
        "runsCountToCompare": NUM_RUNS,
        "isGenerated": False,
        "deleted": False,
    }


def _curve(metric: str) -> Chart:
    """Return a metric's curves by step."""
    return {
        **_card("LINE", metric),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "selectedXAxisMetricKey": "",
        "selectedYAxisMetricKey": "",
        "scaleType": "log" if metric == "loss/train" else "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": True,
        "ignoreOutliers": False,
    }


def _against_error(param: str) -> Chart:
    """Return a param against the validation error, a point a run."""
    return {
        **_card("SCATTER", param),
        "xaxis": {"key": param, "type": "PARAM"},
        "yaxis": {"key": "val/l1", "type": "METRIC"},
    }
