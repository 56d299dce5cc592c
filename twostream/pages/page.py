"""Pages that are one HTML file and need no network: the frame of a page, the common style, tables, escaped text."""

import base64
import html
import re
from collections.abc import Iterable, Sequence

HUES = 12
"""colours of classes in charts: CSS classes hue0 ... hue11"""

STYLE = """
:root { --paper: #fff; --ink: #1f2328; --quiet: #6b7280; --rule: #e5e7eb; --card: #f9fafb;
  --train: #2f6fde; --val: #d9480f; }
@media (prefers-color-scheme: dark) { :root { --paper: #111418; --ink: #e6e8eb; --quiet: #9aa3af; --rule: #2b3138;
  --card: #181c21; --train: #6ea8fe; --val: #ff9452; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .25rem; font-weight: 600; }
p { margin: 0 0 1rem; color: var(--quiet); }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .75rem; min-width: 0; }
section.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 10.5px; font-family: system-ui, sans-serif; }
.rule { stroke: var(--rule); }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.second { stroke-dasharray: 5 3; }
.train { stroke: var(--train); } .val { stroke: var(--val); } circle.val { fill: var(--val); stroke: none; }
.rgb { stroke: var(--train); } .flow { stroke: var(--val); } .rival { stroke: var(--quiet); }
.mark { stroke: var(--quiet); stroke-opacity: .55; } svg text.ink { fill: var(--ink); }
ul { list-style: none; margin: 0 0 .5rem; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; }
li svg { display: inline-block; width: 22px; height: 8px; margin-right: .35rem; vertical-align: middle; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; } .number { text-align: right; }
""" + "\n".join(f"rect.hue{k} {{ fill: hsl({360 * k // HUES} 65% 50%); }}" for k in range(HUES))

INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""characters that HTML does not allow; file names that are not UTF-8 have lone surrogates"""


def escape(text: object) -> str:
    """Any text, safe between tags and inside an attribute in double quotes; invalid characters become U+FFFD."""
    return html.escape(INVALID.sub("\ufffd", str(text)))


def page(title: str, body: str, *, head: Sequence[str] = (), style: str = "") -> str:
    """A complete HTML file. `body` is HTML, `head` has more elements for the head, `style` is added to the common one."""
    return "\n".join(
        [
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            *head,
            f"<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
        ]
    )


def table(
    head: Iterable[str], rows: Iterable[Iterable[str]], *, kind: str = "", text_columns: Sequence[int] = (0,)
) -> str:
    """A table of HTML cells that scrolls if it is too wide.

    `kind` is its CSS class. All columns except `text_columns` are numbers, aligned to the right.
    """

    def line(cells: Iterable[str], tag: str, first_tag: str) -> str:
        parts = []
        for index, cell in enumerate(cells):
            opening = tag if index else first_tag
            css_class = "" if index in text_columns else ' class="number"'
            parts.append(f"<{opening}{css_class}>{cell}</{opening[:2]}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line(row, "td", 'th scope="row"') for row in rows)
    css_class = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll" tabindex="0"><table{css_class}><thead>{line(head, "th", "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def data_url(content: bytes, media_type: str) -> str:
    """Content as an address that holds it, e.g. for an image of type "image/png"."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
