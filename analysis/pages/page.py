"""The report as one self-contained HTML page: no network, framed by assets/page.html."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from analysis.document import Scalar
from analysis.hover import Hover


def escape(text: Any) -> str:
    """Escape text for HTML."""
    return html.escape(str(text))


def inline_svg(svg: str) -> str:
    """Return an SVG for embedding: without prolog, metadata and namespace addresses."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)


def embedded_json(value: Any) -> str:
    """Return data as JSON that cannot end a script element."""
    return json.dumps(value, default=str, separators=(",", ":")).replace("<", "\\u003c")


def figure(svg: str, caption: str, *, narrow: bool = False, hover: Hover | None = None) -> str:
    """Return one figure with its caption and, as JSON, what hovering over it says."""
    kind = ' class="narrow"' if narrow else ""
    data = ""
    if hover:
        data = f'<script type="application/json">{embedded_json(_brief(hover.to_dict()))}</script>'
    shown = f"{inline_svg(svg)}<figcaption>{escape(caption)}</figcaption>"
    return f"<figure{kind}>{shown}{data}</figure>"


def _brief(value: Any) -> Any:
    """Round numbers to five digits: they are read off, not computed with."""
    if isinstance(value, Mapping):
        return {k: _brief(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_brief(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def card(kind: str, lead: str, lines: Sequence[str]) -> str:
    """Return a verdict: one sentence, and what stands behind it."""
    items = "".join(
        f"<li{' class=remark' if line.startswith('Remark') else ''}>{escape(line)}</li>"
        for line in lines
    )
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="card {kind}"><p class="lead">{escape(lead)}</p>{listed}</div>'


def table(rows: Sequence[Mapping[str, Scalar]], *, sortable: bool = False) -> str:
    """Return rows as a table, columns in order of first appearance; runs carry their id."""
    if not rows:
        return "<p>(none)</p>"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = {c for c in columns if any(isinstance(r.get(c), str) for r in rows)}
    names = {c: escape(c).replace("_", "_<wbr>") for c in columns}  # a long name may be broken
    head = "".join(f"<th{_kind(c in text)}>{names[c]}</th>" for c in columns)
    body = "".join(
        f"<tr{_run(row)}>" + "".join(_cell(row.get(c), c in text) for c in columns) + "</tr>"
        for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    start = f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
    return f"{start}<tbody>{body}</tbody></table></div>"


def _run(row: Mapping[str, Scalar]) -> str:
    return f' data-run="{escape(row["run_id"])}"' if row.get("run_id") else ""


def _kind(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _cell(value: Scalar, is_text: bool) -> str:
    if value is None or value != value:
        return f'<td{_kind(is_text)} data-value=""></td>'
    if isinstance(value, bool | str):
        return f'<td{_kind(is_text)} data-value="{escape(value)}">{escape(value)}</td>'
    whole = float(value).is_integer() and abs(value) < 1e15
    shown = f"{int(value):,}".replace(",", "\u2009") if whole else f"{float(value):.4g}"
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


def hint(text: str) -> str:
    """Return a line of small print."""
    return f'<p class="hint">{escape(text)}</p>'


def folded(title: str, inner: str) -> str:
    """Return content folded away under a title."""
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def json_block(title: str, value: Any) -> str:
    """Return data folded away under a title, and readable by a program by its id."""
    text = f'<pre id="record">{escape(json.dumps(value, indent=1, default=str))}</pre>'
    return folded(title, text)


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """Return the whole page."""
    frame = (resources.files("analysis.assets") / "page.html").read_text(encoding="utf-8")
    parts = {"title": escape(title), "subtitle": escape(subtitle), "body": "".join(sections)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], frame)
