"""The report in a real browser, network blocked: no console error, sorting works, a picture."""

import importlib.util
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
  var table = document.querySelector('table.sortable');
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
});
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
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def test_page_loads_without_console_errors_and_sorts(report, tmp_path):
    probe = tmp_path / "probe.html"
    probe.write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    done = browse(probe, tmp_path / "profile", "--dump-dom")
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    body = re.search(r'data-up="([^"]*)" data-down="([^"]*)" data-figures="(\d+)"', done.stdout)
    assert body, done.stdout[:500]
    up = [float(v) for v in body[1].split(",")]
    down = [float(v) for v in body[2].split(",")]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) == len(demo_study())
    assert int(body[3]) >= 4


def test_screenshot_is_not_blank(report, tmp_path):
    picture = tmp_path / "report.png"
    browse(report, tmp_path / "profile", f"--screenshot={picture}")
    from PIL import Image

    image = Image.open(picture).convert("L")
    assert image.size[0] == 1200
    histogram = image.histogram()
    assert sum(histogram[:128]) > 20_000  # ink: text and axes
    assert sum(histogram[250:]) > 1_000_000  # paper
