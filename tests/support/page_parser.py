"""A page of HTML, parsed as a browser would."""

import base64
import html.parser
import io
import re

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Parses elements by section, tables as rows of texts, and every address; all tags must close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.addresses, self.sections = [], [], [], {"": []}
        self.tables, self.images, self.labels = {"": []}, {"": []}, set()
        self.section, self.cell = "", None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "srcset", "action", "data") if name in values]
        if tag == "section":
            self.section = values["id"]
            self.sections[self.section], self.tables[self.section], self.images[self.section] = [], [], []
        elif tag == "table":
            self.tables[self.section].append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.cell = []
            self.labels.add(values.get("data-label"))
        elif tag == "img":
            self.images[self.section].append(values)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("dt", "dd", "p", "li", "h2", "h3"):
            self.sections[self.section].append(" ")
        if tag in ("td", "th"):
            self.tables[self.section][-1][-1].append("".join(self.cell))
            self.cell = None
        elif tag == "section":
            self.section = ""

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.sections[self.section].append(data)
        if self.cell is not None:
            self.cell.append(data)

    def text(self, section=""):
        return re.sub(r"\s+", " ", "".join(self.sections[section]))


def decoded(address):
    kind, _, payload = address.partition(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(payload))))
