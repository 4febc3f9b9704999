import io
import json
import sys

import pytest

from pnseg_runtime.documents import print_json

DOCUMENT = {"image": "čísla µm.png", "nuclei": [1, None, 0.25]}


@pytest.mark.parametrize(("encoding", "escaped"), [("utf-8", False), ("latin-1", True), ("ascii", True)])
def test_characters_that_the_terminal_lacks_are_escaped_and_others_are_not(encoding, escaped, monkeypatch):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        print_json(DOCUMENT)
        monkeypatch.undo()
        out.flush()
        text = raw.getvalue().decode(encoding)
    assert json.loads(text) == DOCUMENT
    assert ("\\u010d" in text) == escaped
