from fer_ignite.cli.evaluation_tables import cross_table


def table(*pairs):
    """Heads of the columns, and of the rows, for pairs of a checkpoint and its data."""
    facts = {"renamed": "", "dropped": {}, "absent": [], "restricted": False}
    results = [
        {"checkpoint": name, "data": data, "split": "val", "accuracy": 0.5, "uar": 0.5, **facts}
        for name, data in pairs
    ]
    head, *rows = cross_table(results).splitlines()
    return head.split(" %)")[1].split(), [row.split(",")[0] for row in rows]


def test_columns_and_rows_have_short_names_where_these_differ():
    heads, rows = table(("runs/a/checkpoints/best.pt", "x/fer.csv"), ("b.pt", "y/raf.csv"))
    assert heads == ["a", "b"] and rows == ["fer.csv", "raf.csv"]


def test_names_that_clash_are_lengthened():
    run = "runs/a/checkpoints"
    heads, rows = table((f"{run}/best.pt", "x/fer.csv"), (f"{run}/last.pt", "y/fer.csv"))
    assert heads == ["a/best", "a/last"] and rows == ["x/fer.csv", "y/fer.csv"]
    far = [f"{place}/a/checkpoints/best.pt" for place in ("one", "two")]
    assert table(*((name, "fer.csv") for name in far))[0] == far
    weighted = [f"{run}/best.pt={share},{run}/last.pt=0.5" for share in (0.5, 1.5)]
    assert table(*((name, "fer.csv") for name in weighted))[0] == weighted
