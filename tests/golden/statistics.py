"""Writes statistics.json beside it: what numpy and scipy say of the columns in it, which data_analyzer must say, too.

  python3 -m venv V && V/bin/pip install numpy==2.2.6 scipy==1.15.3 && V/bin/python tests/golden/statistics.py
"""
import json
import pathlib
import warnings

import numpy
import scipy.stats

warnings.simplefilter("ignore")
random = numpy.random.default_rng(20260101)
COLUMNS = {
    "one to five": [1, 2, 3, 4, 5],
    "single": [7.25],
    "two": [1, 10],
    "constant": [3.3] * 9,
    "ties": [4, 1, 4, 2, 2, 9, 4, 2],
    "outliers": [10, 12, 11, 13, 12, 11, 95, 12, -60, 10],
    "negative": [-5.5, -1, 0, 2.25, 1e3],
    "normal": random.normal(50, 7, 997).round(6).tolist(),
    "exponential": random.exponential(3, 500).tolist(),
    "far from zero": (1e9 + random.normal(0, 1, 400)).tolist(),
    "tiny": (random.normal(0, 1, 50) * 1e-200).tolist(),
    "huge": (random.normal(0, 1, 50) * 1e60).tolist(),
    "integers": random.integers(0, 30, 300).tolist(),
    "missing": [1.5, None, 2.5, "NaN", 4.0, None],
}


def number(value):
    value = float(value)
    return value if numpy.isfinite(value) else None


def describe(values):
    x = numpy.array([v for v in values if isinstance(v, (int, float))], dtype=float)
    mode = scipy.stats.mode(x)
    q1, q2, q3 = numpy.percentile(x, [25, 50, 75])
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    counts, edges = numpy.histogram(x)
    # Near 1, by a power of two, which rounds nothing: what is far from it has squares that a float does not hold.
    s = 2.0 ** numpy.floor(numpy.log2(numpy.abs(x).max() or 1.0))
    return {
        "count": len(x),
        "missing": len(values) - len(x),
        "sum": number(x.sum()),
        "min": number(x.min()),
        "max": number(x.max()),
        "mean": number(x.mean()),
        "median": number(numpy.median(x)),
        "mode": number(mode.mode),
        "mode_count": int(mode.count),
        "variance": number(numpy.var(x, ddof=1)) if len(x) > 1 else None,
        "standard_deviation": number(numpy.std(x / s, ddof=1) * s) if len(x) > 1 else None,
        "population_variance": number(numpy.var(x)),
        "population_standard_deviation": number(numpy.std(x / s) * s),
        "quartiles": {"q1": q1, "q2": q2, "q3": q3, "interquartile_range": q3 - q1},
        "skewness": number(scipy.stats.skew(x / s)),
        "kurtosis": number(scipy.stats.kurtosis(x / s)),
        "outliers": {
            "count": int(((x < low) | (x > high)).sum()),
            "values": [number(v) for v in x if v < low or v > high][:100],
            "lower_fence": low,
            "upper_fence": high,
        },
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


pairs = {
    "a": random.normal(0, 1, 80).tolist(),
}
pairs["b"] = [2 * v + e for v, e in zip(pairs["a"], random.normal(0, 0.5, 80).tolist())]
pairs["c"] = [-v for v in pairs["a"]]
pairs["d"] = random.normal(1e6, 3, 80).tolist()
matrix = numpy.corrcoef([pairs[name] for name in pairs])
correlation = {a: {b: matrix[i][j] for j, b in enumerate(pairs)} for i, a in enumerate(pairs)}
told = {
    "columns": [{"name": n, "data": d, "expected": describe(d)} for n, d in COLUMNS.items()],
    "correlation": {"data": pairs, "expected": correlation},
}
text = json.dumps(told, separators=(",", ":")).replace('{"name"', '\n{"name"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
