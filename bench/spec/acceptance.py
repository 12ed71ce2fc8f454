# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Runs bench.spec.acceptance on the nano model's held-out text (examples/models/nano/README.md).

    python acceptance.py BUILD/bench/bench.spec.acceptance [--plot docs/plots/acceptance.svg]

The text is that of the running interpreter's standard library: with CPython 3.11.7 it is the held-out text of training.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "models" / "nano"))
import corpus

WIDTH, HEIGHT, GAP, MARGIN = 360, 240, 40, 20
LEFT, RIGHT, TOP, BOTTOM = 36, 118, 34, 26  # of a panel, around its lines
STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2329;--soft:#57606a;--rule:#d9dee3;
--blue:#0b68a8;--orange:#c2500a;--green:#0a8262;--gray:#7b858f}
@media(prefers-color-scheme:dark){:root{--paper:#0f1419;--ink:#e4e9ee;--soft:#9aa5b0;--rule:#2c343d;
--blue:#5fb4ef;--orange:#f0954f;--green:#2fb38f;--gray:#8a949e}}
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
svg text{fill:var(--ink);font-size:12px;font-variant-numeric:tabular-nums}
svg .title{font-size:13px;font-weight:600}
svg .axis{fill:var(--soft);font-size:11px}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
"""
COLORS = ("blue", "orange", "green", "gray")


def table(text):
    """{(what, output tokens): (tokens a step, [draft 1, 2, 3], [tokens a step by eight tokens])} of the printed rows."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[1].isdigit():
            numbers = [float(cell) for cell in cells[2:]]
            rows[cells[0], int(cells[1])] = numbers[0], numbers[1:4], numbers[4:]
    return rows


def panel(x, title, unit, places, low, high, step, series):
    """Lines over places, each with its name at its end."""
    def at(place, value):
        return (LEFT + place * (WIDTH - LEFT - RIGHT) / (len(places) - 1),
                HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM))

    body = f'<text x="0" y="16" class="title">{title}</text>\n<text x="{WIDTH}" y="16" class="axis" text-anchor="end">{unit}</text>\n'
    for tick in range(round((high - low) / step) + 1):
        _, y = at(0, low + tick * step)
        body += f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>\n'
        body += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="axis" text-anchor="end">{low + tick * step:.1f}</text>\n'
    for place, name in enumerate(places):
        body += f'<text x="{at(place, low)[0]:.1f}" y="{HEIGHT - 8}" class="axis" text-anchor="middle">{name}</text>\n'
    ends = sorted((at(len(values) - 1, values[-1])[1], i) for i, (_, values) in enumerate(series))
    label_y, last = {}, -100.0
    for y, i in ends:  # Names keep a line's distance.
        last = label_y[i] = max(y + 4, last + 13)
    for i, (name, values) in enumerate(series):
        color = f"var(--{COLORS[i]})"
        points = [at(place, value) for place, value in enumerate(values)]
        body += f'<polyline points="{" ".join(f"{px:.1f},{py:.1f}" for px, py in points)}" class="line" stroke="{color}"/>\n'
        body += "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.6" fill="{color}"/>' for px, py in points) + "\n"
        body += f'<text x="{points[-1][0] + 8:.1f}" y="{label_y[i]:.1f}" style="fill:{color}">{name}</text>\n'
    return f'<svg x="{x}" y="{MARGIN}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">\n{body}</svg>\n'


def drawing(rows):
    window, longer = sorted({tokens for _, tokens in rows})
    eighths = [f"{at}-{at + 8}" for at in range(0, window, 8)]
    panels = [
        ("Tokens a step along the answer", "at output token", eighths, 1.6, 2.6, 0.2,
         [(name, rows[what, window][2]) for name, what in
          (("cold", "cold"), ("hit from disk", "after a hit from disk"), ("not in prefill", "not in prefill"),
           ("heal, one row left", "after a heal, 241 tokens"))]),
        ("Drafts accepted by place", "share of those judged", ["1", "2", "3"], 0.0, 0.8, 0.2,
         [(f"greedy, {longer} tokens", rows["cold", longer][1]), (f"greedy, {window} tokens", rows["cold", window][1]),
          ("rejection, T = 1", rows["rejection at temperature 1.0", window][1]),
          ("match, T = 1", rows["matched at temperature 1.0", window][1])]),
    ]
    wide, high = 2 * MARGIN + len(panels) * WIDTH + (len(panels) - 1) * GAP, HEIGHT + 2 * MARGIN
    body = "".join(panel(MARGIN + i * (WIDTH + GAP), *p) for i, p in enumerate(panels))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}">\n'
            f'<style>{STYLE}</style>\n<rect width="{wide}" height="{high}" fill="var(--paper)"/>\n{body}</svg>\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--plot", type=pathlib.Path, help="draw the rows, too")
    options = parser.parse_args()
    _, held_out = corpus.split_files()
    print(f"{len(held_out)} files, {corpus.fingerprint(held_out)[:8]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, (_, text) in enumerate(held_out):
            paths.append(pathlib.Path(folder) / f"{number:02}.py")
            paths[-1].write_text(text, encoding="utf-8")
        text = ""
        with subprocess.Popen([options.program, *paths], stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                print(line, end="", flush=True)
                text += line
    if child.returncode == 0 and options.plot:
        options.plot.write_text(drawing(table(text)))
        print(options.plot)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
