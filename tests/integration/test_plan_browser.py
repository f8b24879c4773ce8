"""The page of `scaling plan --html` in a real browser: nothing fetched, each mark names its run."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH"),
]
# Points at the first mark, clicks it, and tells what the page then says.
PROBE = """
<script>
window.addEventListener('load', function () {
  var marks = document.querySelectorAll('.mark'), box = marks[0].getBoundingClientRect();
  marks[0].dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: box.x,
    clientY: box.y}));
  var tip = document.getElementById('tip').textContent;
  marks[0].dispatchEvent(new MouseEvent('click', {bubbles: true}));
  var picked = document.querySelector('tr.picked');
  document.body.setAttribute('data-told', JSON.stringify({
    marks: marks.length, rows: document.querySelectorAll('tr[data-run]').length, tip: tip,
    picked: picked ? picked.dataset.run : '', wide: document.documentElement.scrollWidth,
    figures: document.querySelectorAll('figure svg').length}));
});
</script>
"""


def test_marks_name_their_runs_and_find_their_rows(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    command = [sys.executable, "-m", "scaling", "plan", "sweeps.prompt_length", "scale=a100"]
    subprocess.run([*command, "--runs", str(tmp_path / "runs"), "--html", str(page)], check=True)
    page.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    seen = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--enable-logging=stderr", "--window-size=1200,2000",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    assert not re.findall(r".*CONSOLE.*", seen.stderr)
    found = re.search(r'data-told="([^"]*)"', seen.stdout)
    assert found, seen.stdout[-500:]
    told = json.loads(html.unescape(found[1]))
    assert (told["marks"], told["rows"], told["figures"]) == (10, 10, 1)
    run = re.match(r"run ([0-9a-f]{12}), planned\nsize 0\.26b, soft_prompt_length 4\n", told["tip"])
    assert run, told["tip"]
    assert told["picked"] == run[1]
    assert told["wide"] <= 1200
