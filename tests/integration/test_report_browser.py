"""The report in a real browser, network blocked: no console error, sorting, hover, a picture."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.report import build_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
PROBE = """
<script>
window.addEventListener('load', function () {
  var table = document.querySelector('table.sortable tr[data-run]').closest('table');
  var heads = Array.from(table.querySelectorAll('th'));
  var column = heads.findIndex(function (h) { return h.textContent === 'val_l1'; });
  function values() {
    return Array.from(table.tBodies[0].rows).map(function (r) {
      return r.cells[column].dataset.value;
    });
  }
  heads[column].click();
  var up = values().join(',');
  heads[column].click();
  document.body.setAttribute('data-up', up);
  document.body.setAttribute('data-down', values().join(','));
  document.body.setAttribute('data-figures', document.querySelectorAll('figure svg').length);
  hover();
});
function hover() {
  var tip = document.getElementById('tip'), figure = document.querySelector('figure');
  function move(target, box) {
    target.dispatchEvent(new PointerEvent('pointermove', {
      bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 }));
  }
  var told = {};
  var mark = figure.querySelector('.mark');
  mark.scrollIntoView({ block: 'center' });
  move(mark, mark.getBoundingClientRect());
  told.mark = tip.hidden ? '' : tip.textContent;
  told.run = mark.dataset.run;
  mark.dispatchEvent(new PointerEvent('pointerleave'));
  told.left = tip.hidden;
  var panel = figure.querySelector('[id="panel-N"]');
  move(figure, panel.getBoundingClientRect());
  told.panel = tip.hidden ? '' : tip.textContent;
  mark.dispatchEvent(new MouseEvent('click', { bubbles: true }));
  told.first = document.querySelector('table.sortable tr.picked').dataset.run;
  told.marks = document.querySelectorAll('.mark').length;
  told.onScreen = panel.getBoundingClientRect().width > 50;
  var pre = document.createElement('pre');
  pre.id = 'told';
  pre.textContent = JSON.stringify(told);
  document.body.appendChild(pre);
}
</script>
"""


def demo_study() -> pd.DataFrame:
    """The simulated study of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "analysis" / "studies.py"
    spec = importlib.util.spec_from_file_location("studies_for_the_browser", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.demo_study()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "reports"
    extra = {"simulated": True, "finetune": {"domain": "sim_xarm7", "val_l1_before": 0.2}}
    build_report(demo_study(), study="sweeps.toy", out_dir=out, extra=extra, num_draws=60)
    return out / "report.html"


def browse(page: Path, profile: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """Open a page with every host name unresolvable."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--window-size=1200,4000",
        f"--user-data-dir={profile}",
        *what,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


@pytest.fixture(scope="module")
def browsed(report, tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """The page after the probe has sorted its table and moved a pointer over its figures."""
    folder = tmp_path_factory.mktemp("probe")
    probe = folder / "probe.html"
    probe.write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    return browse(probe, folder / "profile", "--dump-dom")


def test_page_loads_without_console_errors_and_sorts(browsed):
    assert not re.findall(r".*CONSOLE.*", browsed.stderr)
    body = re.search(r'data-up="([^"]*)" data-down="([^"]*)" data-figures="(\d+)"', browsed.stdout)
    assert body, browsed.stdout[:500]
    up = [float(v) for v in body[1].split(",")]
    down = [float(v) for v in body[2].split(",")]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) == len(demo_study())
    assert int(body[3]) >= 9


def test_hovering_names_runs_reads_the_law_off_and_a_click_finds_the_row(browsed):
    found = re.search(r'<pre id="told">(.*?)</pre>', browsed.stdout)
    assert found, browsed.stderr[-500:]
    told = json.loads(html.unescape(found[1]))
    runs = set(demo_study()["run_id"])
    assert told["run"] in runs
    assert told["mark"].startswith(f"run {told['run']}\n")
    assert "val_l1 0.0" in told["mark"]
    assert "residual" in told["mark"]
    assert told["left"] is True
    assert re.match(r"parameters \S+\nlaw 0\.0\d+ \[0\.\d+, 0\.\d+\]\na new run \[", told["panel"])
    assert told["first"] == told["run"]
    assert told["onScreen"]
    # every fitted run is in the panel of all axes, in a figure of its own axis and its residuals
    assert told["marks"] >= 3 * 20


def test_screenshot_is_not_blank(report, tmp_path):
    picture = tmp_path / "report.png"
    browse(report, tmp_path / "profile", f"--screenshot={picture}")
    from PIL import Image

    image = Image.open(picture).convert("L")
    assert image.size[0] == 1200
    histogram = image.histogram()
    assert sum(histogram[:128]) > 20_000  # ink: text and axes
    assert sum(histogram[250:]) > 1_000_000  # paper
