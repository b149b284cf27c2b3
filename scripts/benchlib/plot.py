"""A plot of latencies: for each workload what share of its calls was done by when, a line a subject."""
from html import escape
from math import ceil, floor, log10

COLOURS = ["#888888", "#d62728", "#9467bd", "#8c564b", "#1f77b4", "#17becf", "#2ca02c", "#ff7f0e", "#e377c2", "#bcbd22"]
WIDTH, HEIGHT, LEFT, TOP, GAP = 460, 240, 60, 40, 70


def panel(title, curves, x, y):
    """`curves` is {subject: [milliseconds at even quantiles]}."""
    least = min(values[0] for values in curves.values())
    most = max(values[-1] for values in curves.values())
    low, high = floor(log10(max(least, 1e-3))), ceil(log10(max(most, 2e-3)))
    high = max(high, low + 1)

    def at(ms, share):
        across = (log10(max(ms, 10 ** low)) - low) / (high - low)
        return "%.1f,%.1f" % (x + across * WIDTH, y + HEIGHT - share * HEIGHT)

    out = ['<text x="%d" y="%d" class="t">%s</text>' % (x, y - 12, escape(title)),
           '<rect x="%d" y="%d" width="%d" height="%d" class="f"/>' % (x, y, WIDTH, HEIGHT)]
    for power in range(low, high + 1):
        px = x + (power - low) / (high - low) * WIDTH
        out.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="g"/>' % (px, y, px, y + HEIGHT))
        out.append('<text x="%.1f" y="%d" class="x">%g ms</text>' % (px, y + HEIGHT + 16, 10 ** power))
    for share in (0, .5, .95, 1):
        py = y + HEIGHT - share * HEIGHT
        out.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" class="g"/>' % (x, py, x + WIDTH, py))
        out.append('<text x="%d" y="%.1f" class="y">%g %%</text>' % (x - 6, py + 4, share * 100))
    for i, values in enumerate(curves.values()):
        points = " ".join(at(ms, n / (len(values) - 1)) for n, ms in enumerate(values))
        out.append('<polyline points="%s" stroke="%s"/>' % (points, COLOURS[i % len(COLOURS)]))
    return out


def svg(title, panels):
    """`panels` is {workload: {subject: quantiles}}; every panel has the same subjects."""
    names = list(next(iter(panels.values())))
    rows = (len(panels) + 1) // 2
    height = TOP + 30 + rows * (HEIGHT + GAP) + 18 * len(names) + 20
    width = LEFT + 2 * WIDTH + GAP + 30
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif">' % (width, height),
           "<style>.t{font-size:14px;font-weight:bold}.x{font-size:11px;text-anchor:middle}.y{font-size:11px;"
           "text-anchor:end}.g{stroke:#ddd}.f{fill:none;stroke:#999}polyline{fill:none;stroke-width:1.6}</style>",
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="%d" y="24" class="t">%s</text>' % (LEFT, escape(title))]
    for i, (name, curves) in enumerate(panels.items()):
        out += panel(name, curves, LEFT + (i % 2) * (WIDTH + GAP), TOP + 30 + (i // 2) * (HEIGHT + GAP))
    y = TOP + 30 + rows * (HEIGHT + GAP)
    for i, name in enumerate(names):
        out.append('<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="3"/>' % (
            LEFT, y + 18 * i, LEFT + 30, y + 18 * i, COLOURS[i % len(COLOURS)]))
        out.append('<text x="%d" y="%d" font-size="12">%s</text>' % (LEFT + 40, y + 18 * i + 4, escape(name)))
    return "\n".join(out + ["</svg>"]) + "\n"
