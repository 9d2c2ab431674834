"""What a terminal shows of win rates."""

from exptilt.reports.tables.judged_table import new_table, say, told
from exptilt.run_folder.estimate_record import Estimate


def test_an_interval_that_is_not_known_is_no_markup(capsys):
    from rich.console import Console

    table = new_table("[bold]a", "value")
    table.add_row(told(Estimate(value=0.0)))
    Console().print(table)
    say("[red]kappa[/red] 0.000 [unknown]")
    shown = capsys.readouterr().out
    assert "[bold]a" in shown
    assert shown.count("0.000 [unknown]") == 2
    assert "[red]kappa" in shown
