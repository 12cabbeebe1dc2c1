from vllama.cli._table import table


def test_columns_are_as_wide_as_their_widest_cell():
    assert table([("NAME", "ID"), ("demo:latest", "abc"), ("x", "y", "z")]) == (
        "NAME           ID\ndemo:latest    abc\nx              y      z\n"
    )


def test_wide_characters_take_two_places():
    assert table([("模型", "x"), ("demo", "y")]) == "模型    x\ndemo    y\n"


def test_indented():
    assert table([("a", "b"), ("c",)], indent="  ") == "  a    b\n  c\n"
