"""Reading a report back: elements and words of a page, rows of its tables and of Markdown's."""

import re
from html.parser import HTMLParser

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert('x')</script></style>{{ 7*7 }}"
ADDRESSES = {"src", "href", "action", "data", "srcset", "poster", "xlink:href", "formaction"}
ACTIVE = {"script", "iframe", "object", "embed", "form", "base", "audio", "video", "use"}


class Reader(HTMLParser):
    """Every element of a page with its attributes; ``rows`` are the cells of its table bodies."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.cell: list[str] | None = None
        self.drawings = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.drawings += tag == "svg"
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.cell = []

    def handle_endtag(self, tag):
        self.drawings -= tag == "svg"
        if tag == "td":
            self.rows[-1].append(" ".join("".join(self.cell or []).split()))
            self.cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self.cell is not None and not self.drawings:
            self.cell.append(data)


def markdown_rows(document: str) -> list[list[str]]:
    """The cells of every row of every table of a Markdown document, heads left out."""
    rows: list[list[str]] = []
    for line in document.splitlines():
        if re.match(r"\| :?---", line):
            rows.pop()  # what stands above the rule is a head
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([re.sub(r"\\(.)", r"\1", cell).strip() for cell in cells])
    return rows
