"""Columns of text, as Ollama prints them."""

from collections.abc import Iterable, Sequence

_GAP = 4


def table(rows: Iterable[Sequence[str]], *, indent: str = "", gap: int = _GAP) -> str:
    """The rows in columns, left-aligned; nothing follows the last text of a line. Rows may differ in length."""
    from rich.cells import cell_len, set_cell_size

    lines = [list(row) for row in rows]
    widths = [
        max(cell_len(line[column]) for line in lines if column < len(line)) for column in range(max(map(len, lines)))
    ]
    padded = ([set_cell_size(cell, width) for cell, width in zip(line, widths, strict=False)] for line in lines)
    return "".join(f"{indent}{(' ' * gap).join(cells)}".rstrip() + "\n" for cells in padded)
