"""A fitted study, or one fitted law, as text for a terminal."""

from __future__ import annotations

from analysis.one_law import TableFit
from analysis.pages.sentences import number, sensitivity_text, span
from analysis.pages.verdict import details, headline, joint_lines, n_text, noise_text
from analysis.study import StudyFit

RULE = "-" * 88


def render_fit(study: StudyFit) -> str:
    """Write a fitted study: its noise, each axis with its verdict, the joint law."""
    head = f"{study.study}: {study.y} of {study.num_runs} runs"
    lines = [head, RULE, f"estimator: {study.estimator}{n_text(study)}", noise_text(study)]
    trivial = ", ".join(f"{k} {number(v)}" for k, v in study.baselines.items())
    if trivial:
        lines.append(f"trivial predictors: {trivial}")
    lines += [f"note: {note.message}" for note in study.notes]
    for axis in study.axes.values():
        lines += ["", headline(axis)]
        lines += [f"  {line}" for line in details(axis, study)]
    if not study.axes:
        lines += ["", "No axis varies with all else equal: nothing to fit."]
    return "\n".join([*lines, "", *joint_lines(study), RULE])


def render_law(found: TableFit) -> str:
    """Write one law fitted to a table: parameters, both intervals, how it was found."""
    law = found.fit
    where = ", ".join(f"{a} = {c}" for a, c in found.columns.items())
    lines = [
        f"{found.law}: {found.y} = {law.formula}",
        RULE,
        f"estimator: {law.estimator}; {found.num_rows} rows; {where or 'no axes'}",
    ]
    for name, param in law.params.items():
        line = f"  {name:<12} {param.value:<12.6g}"
        for kind, interval in (("bootstrap", param.bootstrap), ("profile", param.profile)):
            if interval is not None:
                line += f"  {kind} {found.level:.0%} {span(interval)}"
        lines.append(line + ("  held" if name in found.fixed else ""))
    lines.append(
        f"cost {law.cost:.9g} (sum), sigma {number(law.sigma)} on the "
        f"{found.link} scale, {law.df} degrees of freedom, "
        f"{law.n_starts_at_optimum} of {law.n_starts} starts at the optimum, "
        f"condition {number(law.condition_number)}"
    )
    if law.sensitivity:
        lines.append(sensitivity_text(law.sensitivity))
    lines += [f"note: {note.message}" for note in (*found.notes, *law.notes)]
    return "\n".join([*lines, RULE])
