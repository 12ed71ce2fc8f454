#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a page of `oriel replay --html`, each as an SVG file of its own, for documents.

    bench/sim/plots.py PAGE FOLDER [--prefix agentic_] [--only comparison buckets classes hits load]
"""

import argparse
import pathlib
import re
import sys

WIDTH, GAP, MARGIN = 360, 40, 20


def drawings(text):
    """(height, content) of each svg in the text."""
    return [(float(height), content.strip())
            for height, content in re.findall(r'<svg viewBox="0 0 [\d.]+ ([\d.]+)"[^>]*>(.*?)</svg>', text, re.S)]


def placed(x, y, drawing):
    height, content = drawing
    return f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n{content}\n</svg>\n'


def figure(section, style, columns):
    heading = re.search(r"<h2>(.*?)</h2>", section).group(1)
    key = drawings("".join(re.findall(r'<div class="key">(.*?)</div>', section, re.S)))
    panels = drawings(section[section.index('<div class="panels">'):])
    columns = min(columns, len(panels))
    body, y = "", MARGIN + 14
    body += f'<text x="{MARGIN}" y="{y}" class="heading">{heading}</text>\n'
    y += 14
    for drawing in key:
        body += placed(MARGIN, y, drawing)
        y += drawing[0] + 10
    for first in range(0, len(panels), columns):
        row = panels[first:first + columns]
        for column, drawing in enumerate(row):
            body += placed(MARGIN + column * (WIDTH + GAP), y, drawing)
        y += max(drawing[0] for drawing in row) + 20
    wide, high = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP, y - 20 + MARGIN
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high:g}" viewBox="0 0 {wide} {high:g}">\n'
            f"<style>{style}svg .heading{{font-size:16px;font-weight:600}}</style>\n"
            f'<rect width="{wide}" height="{high:g}" fill="var(--paper)"/>\n{body}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--prefix", default="", help="of the files' names")
    parser.add_argument("--only", nargs="+", default=["comparison", "buckets", "classes", "hits", "load"])
    parser.add_argument("--columns", type=int, default=3, help="panels beside each other")
    options = parser.parse_args()
    text = options.page.read_text()
    style = re.search(r'<style id="drawings">(.*?)</style>', text, re.S).group(1)
    sections = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.S))
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        if name not in sections:
            sys.exit(f"plots.py: {options.page} has no section '{name}'; it has {', '.join(sections)}")
        path = options.folder / f"{options.prefix}{name}.svg"
        path.write_text(figure(sections[name], style, options.columns))
        print(path)


if __name__ == "__main__":
    main()
