"""Keeps what a script saw as rows of the page `works_with`.

A script reports the rows of its table, and this module compares them with the file
tests/run/results/NAME.json:

    from results import Table

    table = Table("oauth_clients", ["Basic", "body"])
    table.row("requests", "2.34.2", ["works", "works"])
    table.check(checks)

A difference is a failed check. With UPDATE_RESULTS=1 the script writes the file instead; then
`tests/run/works_with.py --write` makes the page. A row that the script could not check because
something cannot be installed is left out: the file keeps it.

The file is an object:

    "script":  the path of the script
    "seen":    the date on which the rows were last seen, e.g. "2026-11-29"
    "columns": the headings after "name" and "version"
    "rows":    objects with "name", "version" (texts) and "cells" (one Markdown text for each column)
"""

import datetime
import json
import os

from harness import ROOT

FOLDER = ROOT / "tests/run/results"


class Table:
    """The rows that a script saw."""

    def __init__(self, name, columns):
        self.path = FOLDER / f"{name}.json"
        self.columns = columns
        self.rows = []

    def row(self, name, version, cells):
        if len(cells) != len(self.columns):
            raise ValueError(f"{name}: {len(cells)} cells for {len(self.columns)} columns")
        self.rows.append({"name": name, "version": version, "cells": cells})

    def check(self, checks, script):
        """Compares the rows with those of the file, or writes them with UPDATE_RESULTS=1. `script` is
        `__file__`."""
        saved = json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}
        own = {row["name"]: row for row in self.rows}
        if os.environ.get("UPDATE_RESULTS") != "1":
            rows = {row["name"]: row for row in saved["rows"]}
            checks.equal(f"{self.path.name}: columns", saved.get("columns"), self.columns)
            for name, row in own.items():
                checks.equal(f"{self.path.name}: {name}", rows.get(name), row)
            return
        kept = [row for row in saved["rows"] if row["name"] not in own]
        content = {
            "script": str(os.path.relpath(script, ROOT)),
            "seen": datetime.date.today().isoformat(),
            "columns": self.columns,
            "rows": self.rows + kept,
        }
        FOLDER.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {self.path}")
