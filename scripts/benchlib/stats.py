"""Numbers from samples: quantiles, intervals of ratios, and whether a series grew."""
import random
import statistics

# Enough that the ends of a 95 % interval are stable to about a tenth of its width.
RESAMPLES = 1000
# Samples of one row that an interval is made from; more would cost seconds and change nothing that is shown.
SAMPLES_MAX = 2000


def quantile(values, q):
    """The q-th quantile of sorted `values`, between neighbours."""
    at = q * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def row(samples_ms):
    """p50, p95, p99, mean and the count of samples."""
    ordered = sorted(samples_ms)
    return {"p50": quantile(ordered, .5), "p95": quantile(ordered, .95), "p99": quantile(ordered, .99),
            "mean": statistics.fmean(ordered), "n": len(ordered)}


def curve(samples_ms, points=101):
    """Quantiles at even steps, for a plot."""
    ordered = sorted(samples_ms)
    return [quantile(ordered, i / (points - 1)) for i in range(points)]


def ratio_interval(a, b, statistic=statistics.median, seed=1):
    """The 95 % bootstrap interval of statistic(a) / statistic(b), samples independent of each other."""
    rng = random.Random(seed)

    def thinned(values):
        return values if len(values) <= SAMPLES_MAX else rng.sample(values, SAMPLES_MAX)

    a, b = thinned(a), thinned(b)
    found = sorted(statistic(rng.choices(a, k=len(a))) / statistic(rng.choices(b, k=len(b)))
                   for _ in range(RESAMPLES))
    return quantile(found, .025), quantile(found, .975)


def compared(new, old, what="time", statistic=statistics.median):
    """`new` against `old`: ratio, its interval, and in words whether it is beyond the noise. Less is better."""
    ratio = statistic(new) / statistic(old)
    low, high = ratio_interval(new, old, statistic)
    if high < 1:
        verdict = "less %s, beyond the noise" % what
    elif low > 1:
        verdict = "more %s, beyond the noise" % what
    else:
        verdict = "no difference beyond the noise"
    return {"ratio": ratio, "low": low, "high": high, "verdict": verdict}


def quarters(samples):
    """The first and the last quarter of `samples`, [(seconds, value)], by time."""
    begin, end = samples[0][0], samples[-1][0]
    quarter = (end - begin) / 4
    return ([v for t, v in samples if t <= begin + quarter], [v for t, v in samples if t >= end - quarter])


def grown(samples, absolute, relative):
    """Why `samples`, [(seconds, value)], grew beyond noise, or None.

    The medians of the first and the last quarter are compared. What may come on top of the first: `absolute`,
    `relative` of it, or three times the spread that the first and last quarter show within themselves, whichever is
    most. A leak that hides below all of that shows in a longer run, where it has grown and the noise has not.
    """
    first, last = quarters(samples)
    if len(first) < 2 or len(last) < 2:
        return None

    def spread(values):
        ordered = sorted(values)
        return quantile(ordered, .75) - quantile(ordered, .25)

    before, after = statistics.median(first), statistics.median(last)
    allowed = max(absolute, relative * before, 3 * min(spread(first), spread(last)))
    if after - before > allowed:
        return "from %g to %g, %g may be noise" % (before, after, allowed)
    return None
