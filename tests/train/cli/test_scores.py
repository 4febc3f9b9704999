"""What evaluations print."""

from collections import Counter

from pnseg_train.cli.scores import SHOWN, print_scores
from pnseg_train.evaluate import Result
from pnseg_train.evaluate_sets import Run


def test_names_are_printed_as_they_are_whatever_a_terminal_would_make_of_them(capsys):
    name = "lab [red] :smile:"
    result = Result("a", "", dict.fromkeys(SHOWN, 0.5), Counter(), Counter(), Counter())
    print_scores([Run("nano", "val", find=None, classes=(), sets={name: [result]})], ["[bold] protocol"])
    said = capsys.readouterr().out
    assert name in said
    assert "[bold] protocol" in said
