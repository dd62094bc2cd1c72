"""What cannot be read of a command line is told in one sentence, whatever box tyro draws of it."""

import pytest

from spatialvla.cli.arguments import gathered, sentence
from spatialvla.cli.main import main

CASES = {
    "predict": "`predict` needs IMAGE, INSTRUCTION, --policy; see spatialvla predict --help.",
    "predict a b": "`predict` needs --policy; see spatialvla predict --help.",
    "predict a b --policy nano --precison fp32": "`predict` has no option --precison; did you mean --precision?",
    "predict a b --policy nano --bogus 3 --none": (
        "`predict` has no option --bogus, --none; see spatialvla predict --help."
    ),
    "evaluate --polcy nano": (
        "`evaluate` has no option --polcy and needs --policy; see spatialvla evaluate --help."
    ),
    "compare a b c": "`compare` takes no further word c; see spatialvla compare --help.",
    "serve --policy nano --port abc": "--port takes INT, not 'abc'; see spatialvla serve --help.",
    "serve --policy nano --port=abc": "--port takes INT, not 'abc'; see spatialvla serve --help.",
    "predict a b --policy nano --intrinsics 1 2": (
        "--intrinsics takes FLOAT FLOAT FLOAT FLOAT, not '1 2'; see spatialvla predict --help."
    ),
    "train --dataset x --steps": "--steps lacks its value; see spatialvla train --help.",
    "train --dataset x --guidance.privileged": (
        "privileged_weight needs the names of the features to regress in `privileged`."
    ),
    "finetune --dataset x --mode loora": (
        "--mode takes one of adapt, full, lora, not 'loora'; see spatialvla finetune --help."
    ),
    "data inspect --dataset x --on-bad no": (
        "--on-bad takes one of raise, skip, not 'no'; see spatialvla data inspect --help."
    ),
}


@pytest.mark.parametrize("columns", [40, 200])
@pytest.mark.parametrize("words", CASES)
def test_a_sentence_says_what_is_wrong(capsys, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as error:
        main(words.split())
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"spatialvla: {CASES[words]}\n")


def test_a_box_of_another_kind_is_told_in_its_own_words():
    box = "╭─ Odd ────────╮\n│ this and that │\n│ do not mix.   │\n╰──────────────╯\n"
    expected = "This and that do not mix; see spatialvla predict --help."
    assert sentence(box, [], "spatialvla predict") == expected
    assert sentence("no box", [], "spatialvla predict") == "No box; see spatialvla predict --help."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--a 1 --add-camera wrist side -h", "--a 1 -h --add-camera wrist side"),
        ("--add-camera wrist --a 1 --add_camera=side --b", "--a 1 --b --add-camera wrist side"),
        ("--add-camera=wrist other", "other --add-camera wrist"),
        ("--a --add-camera --b 2", "--a --add-camera --b 2"),
        ("--a 1", "--a 1"),
    ],
)
def test_an_option_that_is_given_several_times_has_all_its_values(words, expected):
    assert gathered(words.split(), "--add-camera") == expected.split()
