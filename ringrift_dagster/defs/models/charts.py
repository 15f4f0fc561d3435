"""Charts of evaluation as images in metadata. No knowledge of any asset."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import dagster as dg

WIDTH, HEIGHT, MARGIN = 640, 260, 40


def course_chart(course: Sequence[Sequence[float]], lower: float, upper: float) -> dg.MarkdownMetadataValue:
    """The course of a sequential test: log-likelihood ratio by blocks, with the bounds at which it ends."""
    last = max((blocks for blocks, _ in course), default=1)
    ratios = [ratio for _, ratio in course]
    low, high = min([lower, *ratios]) - 0.5, max([upper, *ratios]) + 0.5

    def x(blocks: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * blocks / max(last, 1)

    def y(ratio: float) -> float:
        return MARGIN + (HEIGHT - 2 * MARGIN) * (high - ratio) / (high - low)

    lines = [
        _line(y(upper), "#2a7d2a", f"stronger: {upper:.2f}"),
        _line(y(lower), "#b03030", f"not stronger: {lower:.2f}"),
        _line(y(0.0), "#999999", "0"),
    ]
    points = " ".join(f"{x(blocks):.1f},{y(ratio):.1f}" for blocks, ratio in [(0, 0.0), *course])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{"".join(lines)}'
        f'<polyline points="{points}" fill="none" stroke="#2050a0" stroke-width="1.5"/>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end">{last:g} blocks</text>'
        f'<text x="{MARGIN}" y="18">log-likelihood ratio</text></svg>'
    )
    return dg.MetadataValue.md(
        f"![log-likelihood ratio by blocks](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
    )


def _line(height: float, colour: str, label: str) -> str:
    return (
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{height:.1f}" y2="{height:.1f}" stroke="{colour}" stroke-dasharray="5 3"/>'
        f'<text x="{MARGIN + 4}" y="{height - 4:.1f}" fill="{colour}">{label}</text>'
    )
