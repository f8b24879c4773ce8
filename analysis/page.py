"""The report as one self-contained HTML page: no network, no library, a sortable table."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.verdict import number

CSS = """
:root { --ink: #1c1c1e; --muted: #5f6368; --line: #dcdfe4; --accent: #0072b2; --soft: #f6f8fa; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 16px; margin: 18px 0 6px; }
.sub { color: var(--muted); margin: 0 0 18px; }
.banner { background: #fff4e5; border-left: 4px solid #d55e00; padding: 8px 14px; margin: 14px 0; }
.card { border: 1px solid var(--line); border-left: 5px solid var(--muted); border-radius: 4px;
  padding: 10px 16px; margin: 12px 0; }
.card.falls { border-left-color: var(--accent); } .card.rises { border-left-color: #d55e00; }
.card p.lead { font-weight: 600; margin: 4px 0 6px; }
.card ul { margin: 4px 0; padding-left: 20px; }
.card li { margin: 2px 0; } li.remark { color: var(--muted); }
figure { margin: 14px 0; } figure svg { width: 100%; height: auto; }
figure.narrow svg { max-width: 620px; } figcaption { color: var(--muted); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 16px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; }
th { background: var(--soft); position: sticky; top: 0; white-space: nowrap; }
td.text, th.text { text-align: left; }
table.sortable th { cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\25B2"; color: var(--accent); }
th[aria-sort=descending]::after { content: " \\25BC"; color: var(--accent); }
details { margin: 10px 0; } pre { background: var(--soft); padding: 12px; overflow-x: auto;
  font-size: 12px; max-height: 480px; }
"""
SCRIPT = """
document.querySelectorAll('table.sortable').forEach(function (table) {
  var heads = table.querySelectorAll('th');
  heads.forEach(function (head, column) {
    head.addEventListener('click', function () {
      var up = head.getAttribute('aria-sort') !== 'ascending';
      heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      var body = table.tBodies[0];
      Array.from(body.rows).sort(function (a, b) {
        var x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
        if (x === '' || y === '') { return (x === '') - (y === ''); }
        var both = Number(x) - Number(y);
        var order = isNaN(both) ? x.localeCompare(y) : both;
        return up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""


def escape(text: Any) -> str:
    """Escape text for HTML."""
    return html.escape(str(text))


def inline_svg(svg: str) -> str:
    """Return an SVG for embedding: without prolog, metadata and namespace addresses."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)


def figure(svg: str, caption: str, *, narrow: bool = False) -> str:
    """Return one figure with its caption."""
    kind = ' class="narrow"' if narrow else ""
    return f"<figure{kind}>{inline_svg(svg)}<figcaption>{escape(caption)}</figcaption></figure>"


def card(kind: str, lead: str, lines: Sequence[str]) -> str:
    """Return a verdict: one sentence, and what stands behind it."""
    items = "".join(
        f"<li{' class=remark' if line.startswith('Remark') else ''}>{escape(line)}</li>"
        for line in lines
    )
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="card {kind}"><p class="lead">{escape(lead)}</p>{listed}</div>'


def table(rows: Sequence[Mapping[str, Any]], *, sortable: bool = False) -> str:
    """Return rows as a table, columns in order of first appearance."""
    if not rows:
        return "<p>(none)</p>"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = {c for c in columns if any(isinstance(r.get(c), str) for r in rows)}
    head = "".join(f"<th{_kind(c in text)}>{escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(c), c in text) for c in columns) + "</tr>" for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    start = f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
    return f"{start}<tbody>{body}</tbody></table></div>"


def _kind(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _cell(value: Any, is_text: bool) -> str:
    if value is None or value != value:
        return f'<td{_kind(is_text)} data-value=""></td>'
    if isinstance(value, bool | str):
        return f'<td{_kind(is_text)} data-value="{escape(value)}">{escape(value)}</td>'
    whole = float(value).is_integer() and abs(value) < 1e15
    shown = f"{int(value):,}".replace(",", "\u2009") if whole else number(float(value), 4)
    return f'<td{_kind(is_text)} data-value="{float(value)!r}">{shown}</td>'


def block(value: Any) -> str:
    """Return an extra block given by the caller: text, a mapping, or a list of mappings."""
    if isinstance(value, str):
        return f"<p>{escape(value)}</p>"
    if isinstance(value, Mapping):
        parts = [block(v) for k, v in value.items() if isinstance(v, list | tuple | Mapping)]
        flat = {k: v for k, v in value.items() if not isinstance(v, list | tuple | Mapping)}
        rows = [{"": k, "value": v} for k, v in flat.items() if k != "text"]
        lead = f"<p>{escape(flat['text'])}</p>" if "text" in flat else ""
        return lead + (table(rows) if rows else "") + "".join(parts)
    listed = [dict(row) if isinstance(row, Mapping) else {"": row} for row in value]
    return table(listed, sortable=len(listed) > 3)


def section(title: str, *parts: str) -> str:
    """Return a section with its title."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def json_block(title: str, value: Any) -> str:
    """Return data folded away under a title."""
    text = json.dumps(value, indent=1, default=str)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """Return the whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<p class="sub">{escape(subtitle)}</p>{"".join(sections)}</main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )
