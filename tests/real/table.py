"""The results side by side: a row for what was run, a column for each way to link."""

COLUMNS = ["unwrapped", "plain client", "plain server", "persistent", "ring"]


class Table:
    def __init__(self):
        self.rows = {}

    def put(self, row, column, text):
        assert column in COLUMNS, column
        self.rows.setdefault(row, {})[column] = text

    def lines(self):
        if not self.rows:
            return []
        cells = [["", *COLUMNS]] + [[row, *(have.get(c, "-") for c in COLUMNS)]
                                    for row, have in self.rows.items()]
        wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return ["  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip()
                for line in cells]
