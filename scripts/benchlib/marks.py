"""The marks that speed is held against, each with what must be reached and what would be a moonshot."""

# Name, now to reach, moonshot, whether more is better. None: there is no such bound.
MARKS = [
    ("bash true, p50 / bare", 2.0, 1.3, False),
    ("bash true, p50 / bubblewrap", 0.6, 0.4, False),
    ("python 1+1, p50 / bare", 0.6, 0.25, False),
    ("bash true, p99 / p50, one caller", 3.0, 2.0, False),
    ("calls a second / bubblewrap launches a second", 2.0, 4.0, True),
    ("cold bash true, p50 / bubblewrap", 1.0, 0.7, False),
    ("resident memory of front + engine, idle, MiB", 40.0, 20.0, False),
    ("waiting sandbox, bash, proportional set size, MiB", 1.0, 0.3, False),
    ("waiting sandbox, python, proportional set size, MiB", 8.0, 6.0, False),
    ("waiting sandbox, bash, kernel memory beside it, MiB", 0.4, 0.15, False),
    ("waiting bash sandboxes held", 1000, None, True),
    # "Unchanged": a fifth is what the same measurement differs by from run to run.
    ("bash true, p50 with 1,000 waiting / with the fewest", None, 1.2, False),
    ("listing of all tool schemas, p95, ms", 5.0, 0.5, False),
    ("validation of a parameter, us", 5.0, 0.5, False),
    ("registration of a tool, us", 50.0, 5.0, False),
]

# Marks of what this version does not have.
LATER = [
    ("maximum, container ahead / cold, p50 against docker run", "level maximum is not built yet"),
    ("routing of a task, us", "tasks are not built yet"),
]


def judged(values, reasons):
    """Each mark with its figure and verdict. `values` by name; `reasons` says why one was not measured."""
    found = []
    for name, reach, moonshot, more in MARKS:
        value = values.get(name)
        if value is None:
            verdict = "not measured: " + reasons.get(name, "left out of this run")
        else:
            def meets(bound):
                return bound is not None and (value >= bound if more else value <= bound)
            if reach is None:
                verdict = "the moonshot" if meets(moonshot) else "not the moonshot"
            elif meets(reach):
                verdict = "reached, and the moonshot" if meets(moonshot) else "reached"
            else:
                verdict = "NOT REACHED"
        found.append({"mark": name, "value": value, "reach": reach, "moonshot": moonshot, "more_is_better": more,
                      "verdict": verdict})
    return found + [{"mark": name, "value": None, "verdict": "not measured: " + why} for name, why in LATER]


def shown(found):
    lines = ["%-56s %10s %10s %10s  %s" % ("mark", "measured", "to reach", "moonshot", "verdict")]
    for mark in found:
        def number(key):
            return "-" if mark.get(key) is None else "%.4g" % mark[key]
        sign = ">=" if mark.get("more_is_better") else "<="
        reach, moonshot = ("-" if mark.get(k) is None else sign + number(k) for k in ("reach", "moonshot"))
        lines.append("%-56s %10s %10s %10s  %s" % (mark["mark"], number("value"), reach, moonshot, mark["verdict"]))
    return lines
