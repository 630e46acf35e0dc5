"""How far a study is: runs done and missing by method, and the CPU time that they took and will take."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.progress import table
from testbed.study.plan import Plan
from testbed.study.results import Line
from testbed.study.runner import missing


def render(plan: Plan, lines: Sequence[Line]) -> str:
    """A line in all, and a table with a row per method; what is left is guessed from the method's other runs."""
    to_do = {run.key for run in missing(plan.runs, lines)}
    seconds = {line["key"]: float(line.get("cpu_s", 0.0)) for line in lines}
    rows, spent, left = [], 0.0, 0.0
    known = [seconds[run.key] for run in plan.runs if run.key not in to_do]
    for method in dict.fromkeys(run.method for run in plan.runs):
        keys = [run.key for run in plan.runs if run.method == method]
        took = [seconds[key] for key in keys if key not in to_do]
        open_runs = len(keys) - len(took)
        typical = took or known
        spent += sum(took)
        left += open_runs * sum(typical) / len(typical) if typical else 0.0
        rows.append(
            {
                "method": method,
                "runs": str(len(keys)),
                "done": str(len(took)),
                "CPU s a run": f"{sum(took) / len(took):.0f}" if took else "-",
            }
        )
    head = f"{plan.name}: {len(plan.runs) - len(to_do)} of {len(plan.runs)} runs done in {spent / 3600:.2f} CPU h"
    if to_do and known:
        head += f", about {left / 3600:.2f} CPU h left"
    return f"{head}\n{table(rows)}"
